"""The two parallel stages of a build: read headers into parts, group parts into images.

A part is a Parquet file of rows of the private table; it is whole or absent, so a killed build goes
on where it stopped. It runs in worker processes and holds one chunk, or one bucket, at a time.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from scoutview.base.files import atomic_writer
from scoutview.index.privacy import PRIVATE_MODE
from scoutview.index.records import Rows, records
from scoutview.index.schema import INDEX, PRIVATE, PROBLEMS
from scoutview.index.volumes import group_rows, in_groups
from scoutview.index.walk import SeenFile

ROWS_AT_ONCE: Final = 2048
"""Rows per Parquet row group: what a process holds as Python objects."""

GROUPED: Final = INDEX.append(pa.field("values", pa.map_(pa.string(), pa.float64())))
"""Rows of the index with the labels of their source, before tables are joined."""


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
    # One bucket is bounded, so sorting it in memory is.
    table = pq.read_table(job.bucket, use_threads=False).sort_by("group")
    index, private, problems = Rows(GROUPED), Rows(PRIVATE), Rows(PROBLEMS)
    with (
        part_writer(job.out, "index", GROUPED) as index_out,
        part_writer(job.out, "private", PRIVATE) as private_out,
        part_writer(job.out, "problems", PROBLEMS) as problems_out,
    ):
        pairs = ((index, index_out), (private, private_out), (problems, problems_out))
        for rows in in_groups(_rows(table)):
            grouped = group_rows(rows, job.key)
            for new, (collected, out) in zip(
                (grouped.index, grouped.private, grouped.problems), pairs, strict=True
            ):
                for row in new:
                    collected.add(row)
                if len(collected) >= ROWS_AT_ONCE:
                    out.write_table(collected.take())
        for collected, out in pairs:
            out.write_table(collected.take())
    return job.out


def part_path(stem: Path, name: str) -> Path:
    """Return the path of one result of a bucket."""
    return stem.with_name(f"{stem.name}.{name}.parquet")


@contextmanager
def part_writer(stem: Path, name: str, schema: pa.Schema) -> Iterator[Any]:
    """Open a Parquet writer of one private part, whole or absent."""
    with (
        atomic_writer(part_path(stem, name), mode=PRIVATE_MODE) as stream,
        table_writer(stream, schema) as out,
    ):
        yield out


def table_writer(stream: Any, schema: pa.Schema) -> Any:
    """Open a Parquet writer with the settings of all tables."""
    return pq.ParquetWriter(stream, schema, compression="zstd", compression_level=1)


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def csv_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    """Write rows of the table of problems as CSV lines without a heading."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([row[field.name] for field in PROBLEMS])
    return text.getvalue().encode()
