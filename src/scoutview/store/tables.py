"""The tables beside the shards, written in one pass over the shards' own tables.

`store.json` goes first and comes back last: while it is missing there is no store, only shards.
"""

import csv
import io
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scoutview.base.errors import DataError
from scoutview.base.files import atomic_writer, sync_folder, write_json
from scoutview.base.tables import read_parquet
from scoutview.store import rows, shards
from scoutview.store.hashes import SIDE, crc32
from scoutview.store.reader import MANIFEST, SCHEMA, VERSION
from scoutview.store.rows import ROW_DTYPE

if TYPE_CHECKING:
    from scoutview.store.build import StoreConfig

HASHES: Final = pa.schema(
    [
        ("image_id", pa.string()),
        ("content_hash", pa.string()),
        ("perceptual_hash", pa.uint64()),
    ]
)

PROBLEMS: Final = ("file_id", "image_id", "reason", "detail", "action")
"""Columns of `problems.csv`, as in the cohort's."""

_LEVEL_BYTES: Final = 4 * len(rows.LEVELS)
_SMALL_BYTES: Final = SIDE * SIDE


@dataclass
class _Columns:
    """What is known of every row before the shards are looked at, and gathered from them."""

    records: NDArray[Any]
    content: NDArray[np.bytes_]
    perceptual: NDArray[np.uint64]
    problems: dict[int, dict[str, str]]


def write_tables(
    folder: Path,
    table: pd.DataFrame,
    entries: NDArray[np.uint64],
    config: "StoreConfig",
    plan: str,
) -> None:
    """Write row table, levels, small images, hashes, problems and, last, the manifest.

    Args:
        folder: The store's folder, whose shards hold every entry.
        table: The cohort's index, one line per row.
        entries: Entry of every row.
        config: The store's settings.
        plan: Digest of what the store was built for.

    Raises:
        DataError: More modality groups than a row can number.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(folder)
    groups = sorted(set(table["modality"]))
    if len(groups) > rows.GROUPS:
        raise DataError(f"At most {rows.GROUPS} modalities can be told apart, got {len(groups)}.")
    columns = _Columns(
        _records(table, groups),
        np.zeros(len(table), dtype="S32"),
        np.zeros(len(table), dtype=np.uint64),
        {},
    )
    names = _fill(folder, table, entries, columns)
    placed = columns.records.tobytes()
    with atomic_writer(folder / "rows.bin") as stream:
        stream.write(placed)
    hashes = {
        "image_id": pa.array(table["image_id"], pa.string()),
        "content_hash": pa.array(columns.content.astype(str), pa.string()),
        "perceptual_hash": pa.array(columns.perceptual),
    }
    with atomic_writer(folder / "hashes.parquet") as stream:
        pq.write_table(pa.table(hashes, schema=HASHES), stream)
    with atomic_writer(folder / "problems.csv") as stream:
        stream.write(_csv([columns.problems[row] for row in sorted(columns.problems)]))
    manifest = {
        "images": len(table),
        "absent": int((columns.records["flags"] & rows.PRESENT == 0).sum()),
        "groups": groups,
        "shards": names,
        "shard_bytes": [(folder / "shards" / f"{name}.bin").stat().st_size for name in names],
        "row_version": rows.VERSION,
        "row_bytes": ROW_DTYPE.itemsize,
        "rows_crc": crc32(placed),
        "alignment": {"from_bytes": shards.PAGE, "large": shards.PAGE, "small": shards.LINE},
        "config": config.model_dump(mode="json"),
        "plan": plan,
    }
    write_json(folder / MANIFEST, manifest, schema=SCHEMA, version=VERSION)


def _records(table: pd.DataFrame, groups: list[str]) -> NDArray[Any]:
    """Fill what the cohort says: everything but the place of the pixels."""
    records = np.zeros(len(table), dtype=ROW_DTYPE)
    records["image_key"] = [int(name, 16) >> 1 for name in table["image_id"]]
    number = {name: i for i, name in enumerate(groups)}
    records["group"] = table["modality"].map(number)
    records["bits"] = table["bits_stored"].clip(0, 64)
    for name in ("slope", "intercept", "window_center", "window_width"):
        records[name] = table[name]
    volume = (table["kind"] == "volume").to_numpy()
    inverted = (table["photometric"] == "MONOCHROME1").to_numpy()
    records["flags"] = rows.VOLUME * volume + rows.INVERTED * inverted
    return records


def _fill(
    folder: Path, table: pd.DataFrame, entries: NDArray[np.uint64], columns: _Columns
) -> list[str]:
    """Add what the shards say; write levels and small images while passing by."""
    order = np.argsort(entries, kind="stable")
    ranked = entries[order]
    ids = table["image_id"].to_numpy(dtype=object)
    files = table["file_id"].to_numpy(dtype=object) if "file_id" in table else ids
    names: list[str] = []
    with ExitStack() as stack:
        levels = stack.enter_context(atomic_writer(folder / "levels.bin"))
        small = stack.enter_context(atomic_writer(folder / "small.bin"))
        _reserve(levels, len(table) * _LEVEL_BYTES)
        _reserve(small, len(table) * _SMALL_BYTES)
        for name in shards.finished(folder / "shards"):
            path = folder / "shards" / f"{name}.parquet"
            lines = read_parquet(path, remedy=shards.LOST).to_pydict()
            found = list(_matches(np.array(lines["entry"], dtype=np.uint64), ranked, order))
            if not found:
                continue
            names.append(name)
            for line, row in found:
                if columns.records[row]["flags"] & rows.PRESENT:
                    continue
                _place(columns, lines, line, row, len(names) - 1)
                _put(levels, row * _LEVEL_BYTES, np.float32(lines["levels"][line]).tobytes())
                _put(small, row * _SMALL_BYTES, lines["small"][line])
                columns.problems.pop(row, None)  # a retry that went well
                if lines["reason"][line]:
                    told = {key: lines[key][line] for key in ("reason", "detail", "action")}
                    columns.problems[row] = {"file_id": files[row], "image_id": ids[row], **told}
    return names


def _matches(
    found: NDArray[np.uint64], ranked: NDArray[np.uint64], order: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield (line of the shard, row of the store) for the entries that the store wants."""
    place = np.minimum(np.searchsorted(ranked, found), len(ranked) - 1)
    for line in np.flatnonzero(ranked[place] == found).tolist():
        yield line, int(order[place[line]])


def _place(columns: _Columns, lines: dict[str, Any], line: int, row: int, shard: int) -> None:
    columns.content[row] = lines["content_hash"][line].encode()
    columns.perceptual[row] = lines["perceptual_hash"][line]
    shape = lines["shape"][line]
    if not shape or not lines["length"][line]:
        return
    record = columns.records[row]
    record["shard"] = shard
    for name in ("offset", "length", "dtype", "codec", "channels"):
        record[name] = lines[name][line]
    record["height"], record["width"] = shape[-2:]
    record["depth"] = shape[0] if len(shape) > 2 else 1
    record["flags"] |= rows.PRESENT


def _reserve(stream: BinaryIO, size: int) -> None:
    """Give the file its size; rows that are never written stay zero."""
    if size:
        _put(stream, size - 1, b"\0")


def _put(stream: BinaryIO, offset: int, data: bytes) -> None:
    if data:
        if stream.tell() != offset:
            stream.seek(offset)
        stream.write(data)


def _csv(problems: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, PROBLEMS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(problems)
    return text.getvalue().encode()
