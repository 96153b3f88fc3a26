"""Hashes of pixels: one that changes with any bit, one that does not change with the display.

The perceptual hash describes the layout of light and dark at a coarse scale. It does not change
under an affine change of intensity and hardly under a small shift; `duplicates` looks it up for
several shifted versions of an image and confirms on pixels.
"""

import hashlib
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from imagecodecs import deflate_crc32
from numpy.typing import NDArray

_BLOCK: Final = 16384

SIDE: Final = 32
"""Side of the small image behind a perceptual hash."""

MARGIN: Final = 3
"""Rows and columns of the small image that shifted versions may use up, on each side."""


def crc32(data: Any) -> int:
    """CRC-32 of any buffer (libdeflate: 10 us for 512 KiB)."""
    return int(deflate_crc32(data))


def checksum(data: Any) -> bytes:
    """SHA-256 over the CRC-32 of every 16 KiB of `data`, 32 bytes.

    A changed run of up to 32 bits is always seen, any other change with a chance of 1 - 2^-32 per
    changed block. It costs a tenth of SHA-256 over the data (0.03 against 0.29 ms for 512 KiB),
    which matters because decoding an uncompressed slice takes 0.1 ms.
    """
    view = memoryview(data).cast("B")
    blocks = range(0, len(view), _BLOCK)
    crcs = [crc32(view[start : start + _BLOCK]) for start in blocks]
    head = len(view).to_bytes(8, "little")
    return hashlib.sha256(head + np.array(crcs, dtype="<u4").tobytes()).digest()


def content_hash(pixels: NDArray[Any]) -> str:
    """Identify an array: equal dtype, shape and bytes give equal hashes.

    Returns:
        32 hex digits.
    """
    pixels = np.ascontiguousarray(pixels)
    form = f"{pixels.dtype.newbyteorder('<').str}{pixels.shape}".encode()
    return hashlib.sha256(form + checksum(pixels.data)).hexdigest()[:32]


def _frequencies() -> list[tuple[int, int]]:
    grid = [(v, u) for v in range(1, 12) for u in range(1, 12)]
    # Waves along one axis only are left out: they are alike in all images of one body part.
    lowest = sorted(grid, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:64]
    # Dealt round-robin, each 16-bit band gets coarse and fine waves.
    return [lowest[4 * place + band] for band in range(4) for place in range(16)]


FREQUENCIES: Final = _frequencies()
"""Vertical and horizontal half-waves per window of each bit; bit i of the hash is entry i."""

_ROWS, _COLUMNS = np.array(FREQUENCIES).T


@lru_cache(maxsize=1)
def _waves() -> NDArray[np.float32]:
    """Cosines over every shifted window, (shifts, highest frequency + 1, SIDE)."""
    inner = SIDE - 2 * MARGIN
    highest = max(max(pair) for pair in FREQUENCIES)
    waves = np.zeros((2 * MARGIN + 1, highest + 1, SIDE), dtype=np.float32)
    for shift in range(2 * MARGIN + 1):
        place = np.arange(inner) + 0.5
        for k in range(highest + 1):
            waves[shift, k, shift : shift + inner] = np.cos(np.pi * k * place / inner)
    return waves


def small_image(pixels: NDArray[Any], *, inverted: bool = False) -> NDArray[np.uint8]:
    """Shrink an image to what its perceptual hash sees.

    Args:
        pixels: (H, W) or (H, W, C).
        inverted: Low stored values are bright (MONOCHROME1).

    Returns:
        (SIDE, SIDE), the 2nd percentile at 0 and the 98th at 255; all 0 for an image of one value.
    """
    plane = np.ascontiguousarray(pixels)
    if plane.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        plane = plane.astype(np.float32)
    enlarge = min(plane.shape[:2]) < SIDE
    how = cv2.INTER_LINEAR if enlarge else cv2.INTER_AREA
    small = cv2.resize(plane, (SIDE, SIDE), interpolation=how).astype(np.float32)
    if small.ndim > 2:
        small = small.mean(axis=2)
    if plane.dtype == np.float32:
        small = np.nan_to_num(small)
    ranked = np.sort(small, axis=None)
    low, high = ranked[round(0.02 * (ranked.size - 1))], ranked[round(0.98 * (ranked.size - 1))]
    if high <= low:
        return np.zeros((SIDE, SIDE), dtype=np.uint8)
    unit = np.clip((small - low) / (high - low), 0, 1)
    return np.asarray(np.rint(255 * (1 - unit if inverted else unit)), dtype=np.uint8)


def perceptual_hash(small: NDArray[np.uint8]) -> int:
    """Hash one small image: the sign of 64 low cosine coefficients of its inner part.

    Args:
        small: (SIDE, SIDE), from `small_image`.

    Returns:
        64 bits; 0 for an image of one value.

    Source: Zauner, Implementation and benchmarking of perceptual image hash functions, 2010,
    section 3.2.1 (DCT-based hash). Deviation: signs instead of the median, as waves have mean 0.
    """
    waves = _waves()[MARGIN]
    spectrum = waves @ small.astype(np.float32) @ waves.T
    bits = np.packbits(spectrum[_ROWS, _COLUMNS] > 0, bitorder="little")
    return int(bits.view("<u8")[0])


def shifted_hashes(small: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash small images as if they were shifted by up to `MARGIN` in each direction.

    Args:
        small: (N, SIDE, SIDE).

    Returns:
        (N, (2 * MARGIN + 1)^2); the middle column is the plain hash.
    """
    waves = _waves()
    shifts, count, _ = waves.shape
    flat = waves.reshape(shifts * count, SIDE)
    spectrum = flat @ small.astype(np.float32) @ flat.T  # (N, shifts*count, shifts*count)
    spectrum = spectrum.reshape(-1, shifts, count, shifts, count)[:, :, _ROWS, :, _COLUMNS]
    bits = np.moveaxis(spectrum, 0, -1) > 0  # (N, shifts, shifts, 64)
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u8").reshape(len(small), shifts * shifts)
