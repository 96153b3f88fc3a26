"""Tables that live as long as a build: Arrow files, far cheaper to write and read than Parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def part_path(stem: Path, name: str) -> Path:
    """Return the path of one result of a bucket."""
    return stem.with_name(f"{stem.name}.{name}.arrow")


def part_writer(sink: Any, schema: pa.Schema) -> Any:
    """Open a writer of a path or a stream."""
    return pa.ipc.new_file(str(sink) if isinstance(sink, Path) else sink, schema)


def write_part(path: Path, table: pa.Table) -> None:
    """Write a whole table. Neither synced nor atomic: for what every build makes anew."""
    with part_writer(path, table.schema) as out:
        out.write_table(table)


def read_part(path: Path) -> pa.Table:
    """Map a table into memory; only the columns that are looked at are read."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def read_parts(stems: Sequence[Path], name: str) -> Iterator[pa.Table]:
    """Map one result of every bucket, one after the other."""
    for stem in stems:
        yield read_part(part_path(stem, name))


def lasting_writer(sink: Any, schema: pa.Schema) -> Any:
    """Open a Parquet writer for a table of the finished cohort."""
    return pq.ParquetWriter(sink, schema, compression="zstd", compression_level=1)
