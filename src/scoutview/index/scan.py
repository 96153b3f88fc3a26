"""The two parallel stages of a build: read headers into parts, group parts into images.

A part holds rows of the private table; it is whole or absent, so a killed build goes on where it
stopped. Both stages run in worker processes and hold one chunk, or one bucket, at a time.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa

from scoutview.base.files import atomic_writer
from scoutview.index.parts import part_path, part_writer, read_part, write_part
from scoutview.index.privacy import PRIVATE_MODE, signature
from scoutview.index.records import crashed, records, table_of
from scoutview.index.schema import HEADER, INDEX, PRIVATE, PROBLEMS
from scoutview.index.volumes import group_rows
from scoutview.index.walk import SeenFile

ROWS_AT_ONCE: Final = 2048
"""Rows that a process holds as Python objects."""

GROUPED: Final = INDEX.append(pa.field("values", pa.map_(pa.string(), pa.float64())))
"""Rows of the index with the labels of their source, before tables are joined."""

_COPIED: Final = frozenset((*HEADER.names, "values"))
"""Columns that an image has from its row of the private table as they are."""

_LOOKED_AT: Final = (
    "file_id", "status", "path", "member", "item", "size", "name", "group", "patient", "study",
    "series", "image", "instance_number", "position", "direction", "source_split", "reason",
    "detail", "action", "source", "modality", "height", "width", "n_slices", "channels", "dtype",
    "spacing_y", "spacing_x", "gantry_tilt", "slope", "intercept", "transfer_syntax", "localizer",
)  # fmt: skip
"""What grouping asks for; the wide rest stays in Arrow."""


@dataclass(frozen=True)
class ScanJob:
    """Files to read and the folder of the part to write them to."""

    files: Sequence[SeenFile]
    folder: Path
    key: bytes
    crashes: bool = False
    """Reading the file ended its process: it is recorded, not opened."""

    def halves(self) -> Sequence[Self]:
        """Divide a job that ended its process, down to the file that does it."""
        if len(self.files) == 1:
            return [] if self.crashes else [replace(self, crashes=True)]
        middle = len(self.files) // 2
        return [
            replace(self, files=self.files[:middle]),
            replace(self, files=self.files[middle:]),
        ]


@dataclass(frozen=True)
class GroupJob:
    """A bucket of scanned rows; its results lie beside it, under its name."""

    bucket: Path
    key: bytes

    def halves(self) -> Sequence[Self]:
        """Return nothing: a series cannot be divided."""
        return []


def scan(job: ScanJob) -> int:
    """Read the headers of a chunk of files into one part.

    Returns:
        The number of files.
    """
    name = signature(*(file.signature for file in job.files))
    path = job.folder / f"{name:016x}.arrow"
    rows: list[tuple[Any, ...]] = []
    with atomic_writer(path, mode=PRIVATE_MODE) as stream, part_writer(stream, PRIVATE) as out:
        for file in job.files:
            for row in crashed(file, job.key) if job.crashes else records(file, job.key):
                rows.append(row)
                if len(rows) >= ROWS_AT_ONCE:
                    out.write_table(table_of(rows))
                    rows.clear()
        out.write_table(table_of(rows))
    return len(job.files)


def group(job: GroupJob) -> Path:
    """Group one bucket into images and volumes.

    Returns:
        The path without suffix of the three results.
    """
    # One bucket is bounded, so sorting it in memory is.
    table = read_part(job.bucket)
    table = table.sort_by([(name, "ascending") for name in ("group", "name", "member", "item")])
    image_ids, orders = [""] * len(table), [-1] * len(table)
    index: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    for _, rows in groupby(_rows(table), itemgetter("group")):
        grouped = group_rows(rows, job.key)
        index += grouped.index
        problems += grouped.problems
        for row in grouped.private:
            image_ids[row["at"]], orders[row["at"]] = row["image_id"], row["order"]
    for name, values in {"image_id": image_ids, "order": orders}.items():
        place = PRIVATE.get_field_index(name)
        table = table.set_column(
            place, PRIVATE.field(place), pa.array(values, PRIVATE.field(place).type)
        )
    stem = job.bucket.with_suffix("")
    write_part(part_path(stem, "private"), table)
    write_part(part_path(stem, "index"), _index_table(table, index))
    write_part(part_path(stem, "problems"), pa.Table.from_pylist(problems, PROBLEMS))
    return stem


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield what grouping looks at, and `at`, the row's place in the table."""
    names = ("at", *_LOOKED_AT)
    for start in range(0, len(table), ROWS_AT_ONCE):
        some = table.slice(start, ROWS_AT_ONCE)
        columns = (_values(some.column(name)) for name in _LOOKED_AT)
        places = range(start, start + len(some))
        for values in zip(places, *columns, strict=True):
            yield dict(zip(names, values, strict=True))


def _values(column: pa.ChunkedArray) -> list[Any]:
    # The detour is three times as fast and would turn missing numbers into NaN.
    if column.null_count == 0 and pa.types.is_floating(column.type):
        return list(column.to_numpy().tolist())
    return list(column.to_pylist())


def _index_table(table: pa.Table, index: list[dict[str, Any]]) -> pa.Table:
    """Take the header columns of each image from its row; only volumes change some."""
    taken = table.take(pa.array([row["at"] for row in index], pa.int64()))
    columns = []
    for field in GROUPED:
        name = field.name
        if name not in _COPIED:
            columns.append(pa.array([row[name] for row in index], field.type))
            continue
        column = taken.column(name)
        changes = {n: row["changed"][name] for n, row in enumerate(index) if name in row["changed"]}
        if changes:
            values = [changes.get(n, value) for n, value in enumerate(column.to_pylist())]
            column = pa.array(values, field.type)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=GROUPED)


def csv_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Write rows of the table of problems as CSV lines without a heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([row[field.name] for field in PROBLEMS])
    return text.getvalue().encode()
