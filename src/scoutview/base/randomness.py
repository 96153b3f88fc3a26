"""Addressed randomness: a draw depends on what it is for, not on what was drawn before.

One counter-based generator (Philox, Salmon et al., SC 2011) per sample, keyed by (seed,
purpose) and addressed by (epoch, image). The same address gives the same numbers for any number of
workers or processes, and after any resume.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

VIEWS: Final = 1
SAMPLING: Final = 2
NEGATIVES: Final = 3
SUBSETS: Final = 4
SPLITS: Final = 5
BOOTSTRAP: Final = 6
CLUSTERS: Final = 7
"""Purposes: each has its own numbers."""

_ROUNDS: Final = 6
_WORD: Final = 0xFFFFFFFFFFFFFFFF


def generator(seed: int, purpose: int, *address: int) -> np.random.Generator:
    """Return the generator of one address.

    Args:
        seed: The run's seed, >= 0.
        purpose: One of the constants of this module.
        address: At most three integers, for example (epoch, image_key).

    Returns:
        A NumPy generator that no other address shares.
    """
    words = [value & 0xFFFFFFFFFFFFFFFF for value in address]
    counter = [0, *words, *[0] * (3 - len(words))]
    key = [seed & 0xFFFFFFFFFFFFFFFF, purpose]
    return np.random.Generator(
        np.random.Philox(
            key=np.array(key, dtype=np.uint64), counter=np.array(counter, dtype=np.uint64)
        )
    )


class Addressed:
    """One generator that moves from address to address: a tenth of the cost of a new one each time.

    Not for several threads at once.
    """

    def __init__(self, seed: int, purpose: int) -> None:
        self._generator = generator(seed, purpose)
        self._bits = self._generator.bit_generator
        self._state: Any = self._bits.state
        self._counter = self._state["state"]["counter"]

    def at(self, first: int, second: int = 0, third: int = 0) -> np.random.Generator:
        """Move to an address; what `generator` gives for it, until the next move.

        Args:
            first: First integer of the address, for example the epoch.
            second: Second integer, for example the image's key.
            third: Third integer.
        """
        counter = self._counter  # written out: this is called for every sample
        counter[1] = first & _WORD
        counter[2] = second & _WORD
        counter[3] = third & _WORD
        self._bits.state = self._state
        return self._generator


def permuted(
    index: NDArray[np.int64], size: int, *, seed: int, epoch: int, stream: int = 0
) -> NDArray[np.int64]:
    """Look up positions of a pseudo-random permutation of range(size), without storing it.

    A Feistel network over the smallest even number of bits that holds `size`; results outside the
    range are sent through again (cycle walking), so the map is a bijection of range(size).

    Args:
        index: Positions to look up, each in [0, size).
        size: Length of the permutation, >= 1.
        seed: The run's seed.
        epoch: Each epoch has its own permutation.
        stream: Each stream (a modality group) has its own permutations.

    Returns:
        The permuted positions, same shape as `index`.

    Source: Black & Rogaway, CT-RSA 2002 (cycle-walking cipher on a finite set).
    """
    half = max(1, (int(size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = generator(seed, SAMPLING, epoch, stream).integers(0, 2**63, _ROUNDS, dtype=np.uint64)
    out = np.asarray(index, dtype=np.uint64).copy()
    todo = np.ones(out.shape, dtype=bool)
    while todo.any():
        out[todo] = _feistel(out[todo], half, mask, keys)
        todo = out >= np.uint64(size)
    return out.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], half: int, mask: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    left, right = values >> np.uint64(half), values & mask
    for key in keys:
        mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << np.uint64(half)) | right
