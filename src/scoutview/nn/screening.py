"""The nearest of many centroids on a CPU, in less time than the product of all in float32.

A product in bfloat16 takes half of the time, and its error has a bound. What can be the nearest
after it, usually one to five centroids of ten thousand, is compared in float32.
"""

import functools
import math
from typing import Final

import torch
from torch import Tensor

_UNIT: Final = 2.0**-8
"""Largest relative error of one rounding to bfloat16."""
_ERROR: Final = 3.1 * _UNIT
"""Bound of |product - exact| / (|x| |c|): each factor and the product are rounded once; the rest is
for squares of errors and for float32."""
_AT_ONCE: Final = 32
"""Rows whose scores stay in the cache from the product's rounding to their maxima."""
_MANY: Final = 64
"""Candidates per row above which the whole product costs less."""
_LEAST: Final = 2**18
"""Scores below which the steps cost more than the product."""


@functools.cache
def _is_fast() -> bool:
    """Whether this processor multiplies in bfloat16."""
    if not hasattr(torch.cpu, "get_capabilities"):  # an older torch
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


class Screening:
    """Finds nearest centroids by the Euclidean distance; keeps its memory from call to call."""

    def __init__(self) -> None:
        self._room: tuple[Tensor, Tensor, Tensor] | None = None

    @staticmethod
    def pays(vectors: Tensor, centroids: Tensor) -> bool:
        """Say whether this is faster than the product in float32."""
        plain = vectors.device.type == "cpu" and vectors.dtype == torch.float32
        return plain and len(vectors) * len(centroids) >= _LEAST and _is_fast()

    def nearest(self, vectors: Tensor, centroids: Tensor, offsets: Tensor) -> Tensor | None:
        """Find the nearest centroid of each vector.

        Args:
            vectors: (B, D) float32.
            centroids: (C, D) float32.
            offsets: -|c|^2 / 2 of each centroid, (C,).

        Returns:
            The first centroid with the largest x.c - |c|^2 / 2, (B,) int64; None if too many come
            close to the nearest for this to pay.
        """
        batch, count = len(vectors), len(centroids)
        narrow, rounded, scores = self._memory(batch, centroids)
        narrow.copy_(centroids)
        torch.mm(vectors.bfloat16(), narrow.T, out=rounded)  # (B, C)
        blocks, width = scores.shape[1:]
        peaks = scores.new_empty(batch, blocks)
        for start in range(0, batch, _AT_ONCE):
            part = scores[start : start + _AT_ONCE]  # (b, blocks, width)
            flat = part.view(len(part), -1)[:, :count]
            flat.copy_(rounded[start : start + _AT_ONCE]).add_(offsets)
            torch.amax(part, dim=2, out=peaks[start : start + _AT_ONCE])
        lengths = vectors.square().sum(dim=1, keepdim=True).sqrt()  # (B, 1)
        slack = 2.0 * _ERROR * lengths * (-2.0 * offsets.min()).clamp_min(0.0).sqrt()
        least = peaks.amax(dim=1, keepdim=True) - slack  # (B, 1)
        row, block = (peaks >= least).nonzero().unbind(1)
        part = scores.view(batch * blocks, width).index_select(0, row * blocks + block)
        hit, inside = (part >= least.index_select(0, row)).nonzero().unbind(1)
        if len(hit) > _MANY * batch:
            return None
        row = row.index_select(0, hit)
        column = block.index_select(0, hit) * width + inside
        exact = (vectors.index_select(0, row) * centroids.index_select(0, column)).sum(dim=1)
        exact += offsets.index_select(0, column)
        best = vectors.new_full((batch,), -math.inf).scatter_reduce_(0, row, exact, "amax")
        won = torch.where(exact == best.index_select(0, row), column, count)
        return torch.full((batch,), count).scatter_reduce_(0, row, won, "amin")

    def _memory(self, batch: int, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Room for narrow centroids (C, D), rounded products (B, C) and scores in blocks."""
        kept, shape = self._room, (batch, len(centroids))
        if kept is None or kept[0].shape != centroids.shape or kept[1].shape != shape:
            width = max(1, math.isqrt(len(centroids)))
            blocks = -(-len(centroids) // width)
            narrow = torch.empty_like(centroids, dtype=torch.bfloat16)
            rounded = narrow.new_empty(shape)
            # What lies behind the last centroid is never the largest.
            kept = (narrow, rounded, centroids.new_full((batch, blocks, width), -math.inf))
            self._room = kept
        return kept
