import logging
import shutil

import nibabel
import numpy as np
import pytest
from tests.cohorts import radiograph_cohort
from tests.command_line import scoutview

from scoutview.api.index import index, open_cohort
from scoutview.api.show import show
from scoutview.api.store import store, stored
from scoutview.base.errors import ConfigError, DataError, RunError
from scoutview.index.config import IndexConfig
from scoutview.store.build import StoreConfig
from scoutview.store.reader import Store

COUNTS = {"train": 10, "val": 6, "test": 4}


@pytest.fixture
def cohort(tmp_path):
    return radiograph_cohort(tmp_path, COUNTS)


def held(cohort):
    """Image ids that the store has, in its order."""
    table = open_cohort(cohort).table
    keys = Store.open(cohort).table.mapped["image_key"]
    return table.set_index("image_key").loc[keys, "image_id"].tolist()


def ids(cohort, where=None):
    return open_cohort(cohort, where).table["image_id"].tolist()


def test_store__holds_the_part_that_where_names(cohort):
    folder = store(cohort, where="split == 'val'", workers=1)
    assert folder == cohort / "store"
    assert held(cohort) == ids(cohort, "split == 'val'")


def test_store__parts_do_not_push_each_other_out(cohort):
    for part in ("val", "test"):
        store(cohort, where=f"split == '{part}'", workers=1)
    assert held(cohort) == ids(cohort, "split in ['val', 'test']")
    store(cohort, workers=1)
    assert held(cohort) == ids(cohort)


def test_store__without_settings_keeps_those_of_the_store(cohort):
    store(cohort, config=StoreConfig(codec="lz4", max_side=20), where="split == 'val'", workers=1)
    store(cohort, workers=1)
    opened = Store.open(cohort)
    assert (opened.config["codec"], opened.config["max_side"]) == ("lz4", 20)
    assert opened.read(0).shape == (20, 20)


@pytest.mark.parametrize("workers", [0, -2])
def test_store__needs_a_worker(cohort, workers):
    with pytest.raises(ConfigError, match=f"workers must be >= 1, got {workers}"):
        store(cohort, workers=workers)
    assert not (cohort / "store").exists()


def test_store__refuses_expressions_that_hold_for_nothing(cohort):
    with pytest.raises(DataError, match="No image of 20 fits"):
        store(cohort, where="modality == 'CT'", workers=1)
    with pytest.raises(ConfigError, match="Did you mean 'modality'"):
        store(cohort, where="modalty == 'CT'", workers=1)
    assert not (cohort / "store").exists()


def test_store__verify_names_the_shards_whose_bits_flipped(cohort, capsys):
    for part in ("val", "test"):
        folder = store(cohort, where=f"split == '{part}'", workers=1)
    names = Store.open(folder).shards
    assert len(names) == 2
    assert scoutview("store", cohort, "--verify", "--workers", 1) == 0
    assert "20 images checked" in capsys.readouterr().out
    path = folder / "shards" / f"{names[1]}.bin"
    bits = bytearray(path.read_bytes())
    bits[5] ^= 1
    path.write_bytes(bits)
    store(cohort)
    with pytest.raises(RunError, match=rf"^1 stored .* are {names[1]}\.bin\. Remove"):
        store(cohort, verify=True, workers=1)
    path.unlink()
    store(cohort, verify=True, workers=1)


def test_store__verify_works_where_only_cohort_and_store_were_passed_on(cohort):
    store(cohort, workers=1)
    (cohort / "private.parquet").unlink()
    assert store(cohort, verify=True) == cohort / "store"


def test_store__tells_counts_and_refuses_what_only_decoding_finds(tmp_path, capsys):
    pixels = np.random.default_rng(0).random((6, 5, 4), dtype=np.float32)
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("whole", "flawed")):
        pixels[0, 0, 0] = (0, np.nan)[number]
        nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), tmp_path / "in" / f"{name}.nii")
    cohort = index(tmp_path / "in", tmp_path / "c", config=IndexConfig(workers=1))
    assert "decoding" not in show(cohort).text
    assert scoutview("store", cohort, "--workers", 1) == 0
    out = capsys.readouterr().out
    assert "2 images stored, 0 could not be decoded." in out
    assert "Problems: nan_pixels 1; see" in out
    assert "decoding     problems nan_pixels 1" in show(cohort).text
    flawless = open_cohort(cohort).table["image_id"]
    flawless = flawless[~flawless.isin([row["image_id"] for row in Store.open(cohort).problems()])]
    assert "decoding     no problems" in show(cohort, where=f"image_id == '{flawless.item()}'").text
    with pytest.raises(DataError, match=r"1 nan_pixels; they stand in .*problems\.csv"):
        store(cohort, strict=True, config=StoreConfig(max_side=16), workers=1)
    assert Store.open(cohort).config["max_side"] == 16, "everything is written before the error"


def test_stored__builds_a_missing_store_and_says_so(cohort, caplog):
    with caplog.at_level(logging.INFO, logger="scoutview"):
        opened = stored(open_cohort(cohort, "split == 'val'"), workers=1)
    assert "no store yet; decoding 6 images" in caplog.text
    assert len(opened) == 6


def test_stored__adds_what_is_missing_and_keeps_the_settings(cohort):
    store(cohort, config=StoreConfig(codec="lz4", max_side=20), where="split == 'val'", workers=1)
    opened = stored(open_cohort(cohort, "split == 'test'"), workers=1)
    assert held(cohort) == ids(cohort, "split in ['val', 'test']")
    assert opened.config["codec"] == "lz4"
    assert opened.read(0).shape == (20, 20), "not decoded again at full size"


def test_stored__does_nothing_twice(cohort):
    store(cohort, workers=1)
    before = {p: p.stat().st_mtime_ns for p in (cohort / "store").rglob("*") if p.is_file()}
    assert len(stored(open_cohort(cohort, "split == 'val'"), workers=1)) == 20
    stored(open_cohort(cohort), workers=1)
    assert before == {p: p.stat().st_mtime_ns for p in (cohort / "store").rglob("*") if p.is_file()}


def test_stored__works_where_only_cohort_and_store_were_passed_on(cohort, tmp_path):
    store(cohort, where="split == 'val'", workers=1)
    copy = tmp_path / "passed_on"
    shutil.copytree(cohort, copy, ignore=shutil.ignore_patterns("private.parquet"))
    (tmp_path / "radiographs.npz").unlink()
    part = open_cohort(copy, "split == 'val'")
    opened = stored(part)
    original = Store.open(cohort)
    for row in opened.row_of(part.table["image_id"]):
        np.testing.assert_array_equal(opened.read(int(row)), original.read(int(row)))
    with pytest.raises(DataError, match=r"no private\.parquet"):
        stored(open_cohort(copy))
    shutil.rmtree(copy / "store")
    with pytest.raises(DataError, match=r"no private\.parquet"):
        stored(part)
