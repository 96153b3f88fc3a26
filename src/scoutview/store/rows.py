"""The row table: one fixed-width record per image.

60 bytes a row, so 105 million images take 6.3 GB on disk and nothing in memory.
"""

import mmap
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scoutview.base.errors import DataError, RunError

ROW_DTYPE: Final = np.dtype(
    [
        ("image_key", "<i8"),
        ("offset", "<u8"),
        ("length", "<u8"),
        ("shard", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("depth", "<u2"),
        ("group", "u1"),
        ("bits", "u1"),
        ("dtype", "u1"),
        ("codec", "u1"),
        ("channels", "u1"),
        ("flags", "u1"),
        ("slope", "<f4"),
        ("intercept", "<f4"),
        ("window_center", "<f4"),
        ("window_width", "<f4"),
    ]
)
"""One image or volume: where its bytes lie, their form, and what the intensity policy needs.

`depth` is 1 for an image; an unknown window is NaN; `bits` is 0 where unknown; `group` numbers the
modality in `store.json`.
"""

VERSION: Final = 1
"""Version of `ROW_DTYPE`; a changed field needs the next number."""

PIXEL_DTYPES: Final = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""What `dtype` numbers."""

RAW: Final = 0
LZ4: Final = 1
CHUNKED: Final = 2
"""What `codec` numbers: bytes as they are, one blosc2 chunk, a chunked blosc2 array."""

PRESENT: Final = 1
VOLUME: Final = 2
INVERTED: Final = 4
"""Bits of `flags`: pixels are in the store; the image has a depth axis; MONOCHROME1."""

_TAIL: Final = (0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25)

LEVELS: Final = (*_TAIL, 0.5, *(round(1 - level, 6) for level in reversed(_TAIL)))
"""Quantiles of the stored values that `levels.bin` holds per image, float32."""

_MAPPED_BYTES: Final = 64 << 20

GROUPS: Final = 255
"""Most modality groups that a row can number."""


class Record(NamedTuple):
    """One row as plain Python values; the fields of `ROW_DTYPE`."""

    image_key: int
    offset: int
    length: int
    shard: int
    height: int
    width: int
    depth: int
    group: int
    bits: int
    dtype: int
    codec: int
    channels: int
    flags: int
    slope: float
    intercept: float
    window_center: float
    window_width: float

    @property
    def present(self) -> bool:
        """Whether the store holds pixels of this row."""
        return bool(self.flags & PRESENT)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored array: ([D,] H, W[, channels])."""
        space: tuple[int, ...] = (self.height, self.width)
        if self.flags & VOLUME:
            space = (self.depth, self.height, self.width)
        return space if self.channels == 1 else (*space, self.channels)


class RowTable:
    """Records of a file; opening costs the same for any number of rows.

    Rows of large tables are read one by one, not mapped: the kernel maps up to 16 neighbours of
    every touched page, so over random rows a map would grow to the whole table.
    """

    def __init__(self, path: str | Path, dtype: np.dtype[Any] = ROW_DTYPE) -> None:
        """Open a file of fixed-width records.

        Raises:
            RunError: The size of the file is not a whole number of records.
        """
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 (lives as long as the table)
        size = os.fstat(self._file.fileno()).st_size
        if size % dtype.itemsize:
            raise RunError(
                f"{path}: {size} bytes are not a whole number of {dtype.itemsize}-byte records;"
                " build the store again."
            )
        self._dtype, self._size = dtype, size // dtype.itemsize

    def __len__(self) -> int:
        return self._size

    @cached_property
    def mapped(self) -> NDArray[Any]:
        """All records, read-only, on disk until touched: for looks at whole columns."""
        if not self._size:
            return np.empty(0, dtype=self._dtype)
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype=self._dtype)

    def take(self, index: NDArray[np.int64] | int) -> Any:
        """Copy records out.

        Args:
            index: One row or an array of rows, each in [0, len).

        Returns:
            One record or an array of records.

        Raises:
            DataError: A row is outside the table.
        """
        index = np.asarray(index, dtype=np.int64)
        if index.size and not (index.min() >= 0 and index.max() < self._size):
            raise DataError(
                f"Rows must be in [0, {self._size}), got {index.min()} to {index.max()}."
            )
        fd, width = self._file.fileno(), self._dtype.itemsize
        if self._size * width <= _MAPPED_BYTES:
            return self.mapped[index].copy()
        offsets = (index.ravel() * width).tolist()
        found = b"".join([os.pread(fd, width, offset) for offset in offsets])
        return np.frombuffer(found, dtype=self._dtype).reshape(index.shape)[()]

    def records(self, index: NDArray[np.int64] | int) -> list[Record]:
        """Copy rows out as plain Python values; see `take`."""
        return [Record._make(row) for row in np.atleast_1d(self.take(index)).tolist()]
