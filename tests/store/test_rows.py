import hashlib
import resource

import numpy as np
import pytest

from scoutview.base.errors import DataError, RunError
from scoutview.store import rows
from scoutview.store.rows import ROW_DTYPE, Record, RowTable


def write_rows(path, count):
    table = np.zeros(count, dtype=ROW_DTYPE)
    table["image_key"] = np.arange(count) * 7
    table["height"] = np.arange(count) % 500
    path.write_bytes(table.tobytes())
    return table


def test_row_dtype__takes_at_most_60_bytes():
    assert ROW_DTYPE.itemsize <= 60


def test_row_dtype__has_not_changed_without_a_new_version():
    digest = hashlib.sha256(repr(ROW_DTYPE.descr).encode()).hexdigest()[:12]
    assert (rows.VERSION, digest) == (1, "0179dbcf4c88"), (
        "a changed row needs the next rows.VERSION"
    )


def test_record__has_the_fields_of_the_table():
    assert Record._fields == ROW_DTYPE.names


@pytest.mark.parametrize("mapped", [0, 1 << 20])
def test_take__gives_the_rows_of_the_file(tmp_path, monkeypatch, mapped):
    monkeypatch.setattr(rows, "_MAPPED_BYTES", mapped)
    expected = write_rows(tmp_path / "rows.bin", 5000)
    index = np.random.default_rng(0).integers(0, 5000, 700)
    taken = RowTable(tmp_path / "rows.bin").take(index)
    assert taken.tobytes() == expected[index].tobytes()


def test_take__refuses_rows_outside_the_table(tmp_path):
    write_rows(tmp_path / "rows.bin", 10)
    with pytest.raises(DataError, match=r"\[0, 10\)"):
        RowTable(tmp_path / "rows.bin").take(np.array([3, 10]))


def test_row_table__refuses_a_file_that_was_cut(tmp_path):
    write_rows(tmp_path / "rows.bin", 10)
    whole = (tmp_path / "rows.bin").read_bytes()
    (tmp_path / "rows.bin").write_bytes(whole[:-1])
    with pytest.raises(RunError, match="build the store again"):
        RowTable(tmp_path / "rows.bin")


def test_take__keeps_memory_flat_on_105_million_rows(tmp_path):
    with (tmp_path / "rows.bin").open("wb") as file:
        file.truncate(105_000_000 * ROW_DTYPE.itemsize)  # sparse: takes no disk
    table = RowTable(tmp_path / "rows.bin")
    rng = np.random.default_rng(0)
    table.take(rng.integers(0, len(table), 4096))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(12):  # 12 x 4,096 pages would be 201 MB if they stayed
        table.take(rng.integers(0, len(table), 4096))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
