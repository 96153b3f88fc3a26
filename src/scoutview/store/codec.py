"""Arrays to stored bytes and back."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scoutview.store.rows import CHUNKED, LZ4, PIXEL_DTYPES, RAW, Record

Buffer = bytes | NDArray[np.uint8]
"""Stored bytes; an array shares memory with its image."""

_DTYPES = tuple(np.dtype(name) for name in PIXEL_DTYPES)
_WHOLE_BYTES = 4 << 20


def encode(
    pixels: NDArray[Any], codec: Literal["raw", "lz4"], *, volume: bool
) -> tuple[Buffer, int]:
    """Turn an array into bytes.

    Args:
        pixels: C-contiguous array.
        codec: "raw" keeps the bytes; "lz4" compresses images below 4 MiB as one chunk (LZ4), and
            larger images and volumes as chunked arrays (LZ4HC), so that a crop reads few chunks.
        volume: The first axis is depth.

    Returns:
        The bytes and the number of the codec that was used.
    """
    if codec == "raw":
        return pixels.reshape(-1).view(np.uint8), RAW
    from scoutview.store import compressed

    if volume or pixels.nbytes > _WHOLE_BYTES:
        return compressed.pack_chunks(pixels, volume=volume), CHUNKED
    return compressed.pack(pixels), LZ4


def decode(data: Any, record: Record, window: tuple[slice, ...] | None = None) -> NDArray[Any]:
    """Turn stored bytes back into an array.

    Args:
        data: A buffer that holds the record's bytes at `record.offset`; usually a memory map.
        record: The image's row.
        window: The part to return; None is all.

    Returns:
        A read-only view of `data` for raw bytes, else a new array.
    """
    dtype = _DTYPES[record.dtype]
    if record.codec == RAW:
        whole: NDArray[Any] = np.ndarray(record.shape, dtype, buffer=data, offset=record.offset)
        return whole if window is None else whole[window]
    from scoutview.store import compressed

    stored = memoryview(data)[record.offset : record.offset + record.length]
    if record.codec == LZ4:
        whole = np.empty(record.shape, dtype)
        compressed.unpack(stored, whole)
        return whole if window is None else whole[window]
    return np.asarray(compressed.unpack_chunks(stored, window), dtype=dtype)
