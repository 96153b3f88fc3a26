"""Gaussian noise with an address: pixel i of pattern s is the same number on every device.

A hash of (pattern, pixel) picks one of 65,536 quantiles of the normal distribution, which costs
less than a stream of normal numbers and needs no state.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

STRIDE: Final = 0x9E3779B1
FIRST: Final = 0x7FEB352D
SECOND: Final = 0x846CA68B
"""Multipliers of the hash.

Source: C. Wellons, "Prospecting for hash functions", 2018 (lowbias32).
"""
_WORD: Final = 0xFFFFFFFF


@cache
def quantiles() -> NDArray[np.float32]:
    """Return the 65,536 equally likely values, (65536,), mean 0 and standard deviation 1."""
    from scipy.special import ndtri  # takes as long to import as ten batches of views

    values = ndtri((np.arange(65536) + 0.5) / 65536)
    return np.asarray(values / values.std(), dtype=np.float32)


def pattern_key(seed: int) -> int:
    """Scramble a pattern's number, so that neighbouring numbers give unrelated patterns."""
    x = seed & _WORD
    x = (x ^ (x >> 16)) * FIRST & _WORD
    x = (x ^ (x >> 15)) * SECOND & _WORD
    return x ^ (x >> 16)


@cache
def _strides(count: int) -> NDArray[np.uint32]:
    return np.arange(count, dtype=np.uint32) * np.uint32(STRIDE)


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Return standard normal noise.

    Args:
        shape: Shape of the pattern, channel first.
        seed: Number of the pattern, in [0, 2^32).
    """
    x = _strides(int(np.prod(shape))) ^ np.uint32(pattern_key(seed))
    x ^= x >> np.uint32(16)
    x *= np.uint32(FIRST)
    x ^= x >> np.uint32(15)
    x *= np.uint32(SECOND)
    pattern: NDArray[np.float32] = quantiles()[x >> np.uint32(16)].reshape(shape)
    return pattern
