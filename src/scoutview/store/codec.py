"""Arrays to stored bytes and back."""

from typing import Any, Literal

import blosc2
import numpy as np
from numpy.typing import NDArray

from scoutview.store.rows import CHUNKED, LZ4, PIXEL_DTYPES, RAW, Record

Buffer = bytes | NDArray[np.uint8]
"""Stored bytes; an array shares memory with its image."""

_DTYPES = tuple(np.dtype(name) for name in PIXEL_DTYPES)
_WHOLE_BYTES = 4 << 20
_CHUNK = (16, 128, 128)
_BLOCK = (8, 32, 32)
"""A chunk is about a patch (512 KiB of int16); a block fits the level-2 cache."""


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
    if volume or pixels.nbytes > _WHOLE_BYTES:
        return _chunked(pixels, volume), CHUNKED
    packed = blosc2.compress2(
        pixels,
        codec=blosc2.Codec.LZ4,
        clevel=1,
        typesize=pixels.itemsize,
        filters=[blosc2.Filter.SHUFFLE],
        nthreads=1,
    )
    return packed, LZ4


def _chunked(pixels: NDArray[Any], volume: bool) -> bytes:
    chunk, block = (_CHUNK, _BLOCK) if volume else ((512, 512), (64, 64))
    colour = pixels.shape[len(chunk) :]
    chunks = [min(a, b) for a, b in zip(chunk, pixels.shape, strict=False)]
    blocks = [min(a, b) for a, b in zip(block, chunks, strict=True)]
    array = blosc2.asarray(
        pixels,
        chunks=(*chunks, *colour),
        blocks=(*blocks, *colour),
        cparams={
            "codec": blosc2.Codec.LZ4HC,
            "clevel": 5,
            "typesize": pixels.itemsize,
            "filters": [blosc2.Filter.SHUFFLE],
            "nthreads": 1,
        },
    )
    return bytes(array.to_cframe())


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
    stored = memoryview(data)[record.offset : record.offset + record.length]
    if record.codec == LZ4:
        whole = np.empty(record.shape, dtype)
        blosc2.decompress2(stored, dst=whole, nthreads=1)
        return whole if window is None else whole[window]
    array = blosc2.ndarray_from_cframe(stored, copy=False)
    return np.asarray(array[window if window is not None else ...], dtype=dtype)
