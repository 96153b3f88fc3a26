"""Shard files: written once under the name of their content, described by a table beside them.

`<name>.bin` holds pixels, `<name>.parquet` one line per image. The table is written last: a shard
without a table was left by a killed build, is never read and is removed by the next one.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoutview.base.files import TEMPORARY, atomic_writer, sync_folder
from scoutview.base.tables import read_parquet
from scoutview.store.codec import Buffer
from scoutview.store.hashes import crc32

logger = logging.getLogger(__name__)

PAGE: Final = 4096
"""Images of at least this many stored bytes begin on a page, so that a crop touches few pages."""

LINE: Final = 64
"""Smaller images begin on a cache line: a page each would make 28x28 pixels five times as large."""

ENTRIES: Final = pa.schema(
    [
        ("entry", pa.uint64()),
        ("image_id", pa.string()),
        ("offset", pa.uint64()),
        ("length", pa.uint64()),
        ("crc", pa.uint32()),
        ("shape", pa.list_(pa.int64())),
        ("channels", pa.uint8()),
        ("dtype", pa.uint8()),
        ("codec", pa.uint8()),
        ("content_hash", pa.string()),
        ("perceptual_hash", pa.uint64()),
        ("levels", pa.list_(pa.float32())),
        ("small", pa.binary()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("action", pa.string()),
    ]
)
"""One line per image of a shard; length 0 means that `reason` kept its pixels out."""


LOST: Final = "remove it and run: scoutview store COHORT"
"""What to do about a damaged file of a shard: its images are decoded again."""


@dataclass
class Piece:
    """Some images, ready to be written: their bytes and their lines with offsets from 0."""

    buffers: list[Buffer] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    def add(self, data: Buffer, line: dict[str, Any]) -> None:
        """Append one image's bytes, aligned, and its line."""
        step = PAGE if len(data) >= PAGE else LINE
        gap = -self.size % step
        if gap:
            self.buffers.append(bytes(gap))
        self.buffers.append(data)
        offset = self.size + gap
        line |= {"offset": offset, "length": len(data), "crc": crc32(data)}
        self.lines.append(line)
        self.size = offset + len(data)


class ShardWriter:
    """Writes one shard; it exists under its name only after `commit`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partial = folder / f".shard{TEMPORARY}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._fd = os.open(self._partial, flags, 0o644)
        self._lines: list[dict[str, Any]] = []
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._partial.unlink(missing_ok=True)

    def append(self, piece: Piece) -> None:
        """Write a piece behind what is there."""
        gap = -self.size % PAGE
        _write_all(self._fd, [bytes(gap), *piece.buffers])
        start = self.size + gap
        for line in piece.lines:
            self._lines.append(line | {"offset": start + line["offset"]})
        self.size = start + piece.size

    def commit(self) -> str:
        """Make the shard durable and give it its name.

        Returns:
            The name: 16 hex digits of the checksum over all lines and pixels.
        """
        name = address(self._lines)
        os.fsync(self._fd)
        os.close(self._fd)
        self._fd = -1
        os.replace(self._partial, self._folder / f"{name}.bin")
        sync_folder(self._folder)
        with atomic_writer(self._folder / f"{name}.parquet") as stream:
            pq.write_table(pa.Table.from_pylist(self._lines, schema=ENTRIES), stream)
        return name


def address(lines: Sequence[dict[str, Any]]) -> str:
    """Name a shard by its content: equal pixels of equal images give equal names."""
    digest = hashlib.sha256()
    for line in lines:
        told = (line["entry"], line["offset"], line["length"], line["crc"], line["content_hash"])
        digest.update(repr(told).encode())
    return digest.hexdigest()[:16]


def _write_all(fd: int, buffers: Sequence[Buffer]) -> None:
    """Write buffers in order; small ones together, as each write is a system call."""
    waiting = bytearray()
    for buffer in buffers:
        if len(buffer) < 1 << 16:
            waiting += buffer if isinstance(buffer, bytes) else buffer.tobytes()
            continue
        _write(fd, waiting)
        _write(fd, buffer)
        waiting = bytearray()
    _write(fd, waiting)


def _write(fd: int, data: Buffer | bytearray) -> None:
    view = memoryview(data.data if isinstance(data, np.ndarray) else data)
    while len(view):
        view = view[os.write(fd, view) :]


def finished(folder: Path) -> list[str]:
    """Names of the whole shards of a folder, in order of their names."""
    return sorted(
        table.stem for table in folder.glob("*.parquet") if table.with_suffix(".bin").is_file()
    )


def remove_leftovers(folder: Path) -> None:
    """Delete partial files, shards without a table, and shards that were cut short."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)
    for table in folder.glob("*.parquet"):
        if table.with_suffix(".bin").is_file() and _is_cut_short(table):
            logger.warning("store: shard %s is cut short; its images are decoded again", table.stem)
            table.unlink()
    for path in folder.glob("*.bin"):
        if not path.with_suffix(".parquet").is_file():
            path.unlink(missing_ok=True)


def _is_cut_short(table: Path) -> bool:
    lines = read_parquet(table, remedy=LOST, columns=["offset", "length"])
    ends = pc.add(lines["offset"], lines["length"])
    return table.with_suffix(".bin").stat().st_size < (pc.max(ends).as_py() or 0)
