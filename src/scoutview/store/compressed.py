"""LZ4 by blosc2, a module of its own because most stores are raw and blosc2 is slow to import."""

from typing import Any, Final

import blosc2
from numpy.typing import NDArray

_CHUNK: Final = (16, 128, 128)
_BLOCK: Final = (8, 32, 32)
"""A chunk is about a patch (512 KiB of int16); a block fits the level-2 cache."""


def pack(pixels: NDArray[Any]) -> bytes:
    """Compress an array as one chunk, with LZ4."""
    packed: bytes = blosc2.compress2(
        pixels,
        codec=blosc2.Codec.LZ4,
        clevel=1,
        typesize=pixels.itemsize,
        filters=[blosc2.Filter.SHUFFLE],
        nthreads=1,
    )
    return packed


def unpack(stored: memoryview, whole: NDArray[Any]) -> None:
    """Fill an array from what `pack` returned."""
    blosc2.decompress2(stored, dst=whole, nthreads=1)


def pack_chunks(pixels: NDArray[Any], *, volume: bool) -> bytes:
    """Compress an array in chunks, with LZ4HC, so that a window of it reads few of them.

    Args:
        pixels: ([D,] H, W[, C]).
        volume: The first axis is depth.
    """
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


def unpack_chunks(stored: memoryview, window: tuple[slice, ...] | None) -> Any:
    """Return a window, or all, of what `pack_chunks` returned."""
    array = blosc2.ndarray_from_cframe(stored, copy=False)
    return array[window if window is not None else ...]
