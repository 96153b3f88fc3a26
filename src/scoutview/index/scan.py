"""The two parallel stages of a build: read headers into parts, group parts into images.

A part is a Parquet file of rows of the private table; it is whole or absent, so a killed build goes
on where it stopped. It runs in worker processes and holds one chunk, or one bucket, at a time.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from scoutview.base.files import atomic_writer
from scoutview.index.privacy import PRIVATE_MODE
from scoutview.index.records import Rows, records
from scoutview.index.schema import HEADER, INDEX, PRIVATE, PROBLEMS
from scoutview.index.volumes import group_rows, in_groups
from scoutview.index.walk import SeenFile

ROWS_AT_ONCE: Final = 1024
"""Rows per Parquet row group: what a process holds as Python objects."""

GROUPED: Final = INDEX.append(pa.field("values", pa.map_(pa.string(), pa.float64())))
"""Rows of the index with the labels of their source, before tables are joined."""


_NOT_LOOKED_AT: Final = frozenset(
    {
        "image_id", "order", "mtime_ns", "signature", "body_part", "projection", "laterality",
        "frames", "bits_stored", "spacing_z", "orientation", "window_center", "window_width",
        "voi_lut", "photometric", "burned_in", "secondary_capture",
    }
)  # fmt: skip
_LOOKED_AT: Final = [name for name in PRIVATE.names if name not in _NOT_LOOKED_AT]


@dataclass(frozen=True)
class ScanJob:
    """Files to read and the part to write them to."""

    files: Sequence[SeenFile]
    part: Path
    key: bytes


@dataclass(frozen=True)
class GroupJob:
    """A bucket of scanned rows and where its results go."""

    bucket: Path
    out: Path
    """Path without suffix: `.index`, `.private` and `.problems` are appended."""
    key: bytes


def scan(job: ScanJob) -> int:
    """Read the headers of a chunk of files into one part.

    Returns:
        The number of files.
    """
    rows = Rows(PRIVATE)
    with atomic_writer(job.part, mode=PRIVATE_MODE) as stream, table_writer(stream, PRIVATE) as out:
        for file in job.files:
            for row in records(file, job.key):
                rows.add(row)
                if len(rows) >= ROWS_AT_ONCE:
                    out.write_table(rows.take())
        out.write_table(rows.take())
    return len(job.files)


def group(job: GroupJob) -> Path:
    """Group one bucket into images and volumes.

    Returns:
        The path without suffix of the three results.
    """
    # One bucket is bounded, so sorting it in memory is. Ties stay in the order of their names.
    table = pq.read_table(job.bucket, use_threads=False)
    table = table.sort_by([("group", "ascending"), ("name", "ascending"), ("item", "ascending")])
    image_ids, orders = [""] * len(table), [-1] * len(table)
    index: list[dict[str, Any]] = []
    problems = Rows(PROBLEMS)
    for rows in in_groups(_rows(table)):
        grouped = group_rows(rows, job.key)
        index += grouped.index
        for problem in grouped.problems:
            problems.add(problem)
        for row in grouped.private:
            image_ids[row["at"]], orders[row["at"]] = row["image_id"], row["order"]
    private = _replaced(table, {"image_id": image_ids, "order": orders})
    _write_part(job.out, "index", _index_table(table, index))
    _write_part(job.out, "private", private)
    _write_part(job.out, "problems", problems.take())
    return job.out


def _index_table(table: pa.Table, index: list[dict[str, Any]]) -> pa.Table:
    """Take the header columns of each image from its row; only volumes change some."""
    taken = table.take(pa.array([row["at"] for row in index], pa.int64()))
    changed = {n: row for n, row in enumerate(index) if row["changed"]}
    columns = []
    for field in GROUPED:
        name = field.name
        changes = {n: row["changed"][name] for n, row in changed.items() if name in row["changed"]}
        if name in HEADER.names and not changes:
            columns.append(taken.column(name))
            continue
        values = (
            taken.column(name).to_pylist() if name in HEADER.names else [row[name] for row in index]
        )
        for n, value in changes.items():
            values[n] = value
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=GROUPED)


def _replaced(table: pa.Table, columns: dict[str, list[Any]]) -> pa.Table:
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table


def _write_part(stem: Path, name: str, table: pa.Table) -> None:
    with (
        atomic_writer(part_path(stem, name), mode=PRIVATE_MODE) as stream,
        table_writer(stream, table.schema) as out,
    ):
        out.write_table(table, row_group_size=ROWS_AT_ONCE)


def part_path(stem: Path, name: str) -> Path:
    """Return the path of one result of a bucket."""
    return stem.with_name(f"{stem.name}.{name}.parquet")


def table_writer(stream: Any, schema: pa.Schema, *, lasting: bool = False) -> Any:
    """Open a Parquet writer; tables that do not last are written fast, not small."""
    if lasting:
        return pq.ParquetWriter(stream, schema, compression="zstd", compression_level=1)
    return pq.ParquetWriter(
        stream, schema, compression="none", use_dictionary=False, write_statistics=False
    )


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the columns that grouping looks at, and `at`, the row's place in the table."""
    at = 0
    for batch in table.select(_LOOKED_AT).to_batches(max_chunksize=ROWS_AT_ONCE):
        for row in batch.to_pylist():
            row["at"] = at
            at += 1
            yield row


def csv_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Write rows of the table of problems as CSV lines without a heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([row[field.name] for field in PROBLEMS])
    return text.getvalue().encode()
