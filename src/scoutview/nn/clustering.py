"""Assignments of rows to prototypes."""

import math
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from scoutview.nn.gather import world_size
from scoutview.nn.precision import full_precision

_BITS: Final = math.log2(math.e)
"""exp(x) = 2^(x log2 e), and exp2 takes 0.4 of the time of exp on a CPU."""


@torch.no_grad()
@full_precision
def sinkhorn(
    scores: Tensor,
    *,
    epsilon: float,
    iterations: int,
    keep: int | None = None,
    log_domain: bool = False,
) -> Tensor:
    """Assign rows softly to prototypes so that all prototypes get equal mass.

    Works with two scaling vectors and never builds the assignment of rows that nobody asks for.
    The rows of all processes are assigned together.

    Args:
        scores: Similarities, (B, K): the rows of this process.
        epsilon: Entropy of the assignment, > 0; smaller is harder.
        iterations: Rounds of column and row scaling, >= 1.
        keep: Return only the last `keep` rows (the batch behind a queue); None returns all.
        log_domain: Slower, for scores / epsilon that span more than about 80, where exp underflows.

    Returns:
        Assignments, (keep, K); each row sums to 1.

    Source: Caron et al., 2020, arXiv:2006.09882, section 3.1; Cuturi, 2013, arXiv:1306.0895.
    """
    keep = len(scores) if keep is None else keep
    if log_domain:
        logits = scores / epsilon
        return _sinkhorn_log(logits, logits[len(scores) - keep :], iterations)
    peak = _max(scores.max())  # one constant for all rows: it cancels in the first scaling
    mass = (scores - peak).mul_(_BITS / epsilon).exp2_()  # (B, K)
    return _balanced(mass, iterations, keep)


class BesideQueue:
    """Sinkhorn over a batch and the past rows of a queue, straight from unit vectors.

    Equal to `sinkhorn` of the products, without copies: the scale goes to the smaller factor, the
    exponential is taken in place, and the memory is kept from call to call, because the page
    faults of new memory take half as long as the product.
    """

    def __init__(self, *, epsilon: float, iterations: int) -> None:
        """Prepare.

        Args:
            epsilon: Entropy of the assignment, > 0.
            iterations: Rounds of column and row scaling, >= 1.
        """
        self._epsilon, self._iterations = epsilon, iterations
        self._memory = torch.empty(0)

    @torch.no_grad()
    @full_precision
    def assign(self, past: Tensor, prototypes: Tensor, scores: Tensor) -> Tensor:
        """Assign a batch; the rows of all processes count together.

        Args:
            past: This process's share of the queue, unit vectors, (Q, D).
            prototypes: Unit vectors, (K, D).
            scores: Cosine similarities of the batch, (B, K).

        Returns:
            Assignments, (B, K); each row sums to 1.
        """
        if needs_log_domain(self._epsilon):
            return sinkhorn(
                torch.cat([past @ prototypes.T, scores]),
                epsilon=self._epsilon,
                iterations=self._iterations,
                keep=len(scores),
                log_domain=True,
            )
        factor = _BITS / self._epsilon
        mass = self._room(len(past) + len(scores), scores)  # (Q + B, K)
        torch.mm(past, (prototypes * factor).T, out=mass[: len(past)])
        torch.mul(scores, factor, out=mass[len(past) :])
        # Cosines need no maximum: without the log domain the entries lie within 1e-15 to 1e15.
        return _balanced(mass.exp2_(), self._iterations, len(scores))

    def _room(self, rows: int, like: Tensor) -> Tensor:
        kept, shape = self._memory, (rows, like.shape[1])
        if (kept.shape, kept.dtype, kept.device) != (shape, like.dtype, like.device):
            self._memory = like.new_empty(shape)
        return self._memory


def _balanced(mass: Tensor, iterations: int, keep: int) -> Tensor:
    """Scale columns to equal and rows to unit sums in turn; give the last rows, (keep, K)."""
    rows = mass.new_ones(len(mass))  # (B,)
    for left in reversed(range(iterations)):
        prototypes = 1.0 / _sum(mass.T @ rows)  # (K,)
        prototypes = prototypes / prototypes.sum()  # the scale is free; without this it drifts
        if left:  # the last time, only the rows that are asked for are scaled
            rows = 1.0 / (mass @ prototypes)  # (B,)
    assigned = mass[len(mass) - keep :] * prototypes  # (keep, K)
    return assigned / assigned.sum(dim=1, keepdim=True)


def _sinkhorn_log(logits: Tensor, kept: Tensor, iterations: int) -> Tensor:
    rows = logits.new_zeros(len(logits), 1)
    for _ in range(iterations):
        prototypes = -_logsumexp(logits + rows)  # (K,)
        rows = -torch.logsumexp(logits + prototypes, dim=1, keepdim=True)  # (B, 1)
    return torch.softmax(kept + prototypes, dim=1)


def _sum(x: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def _max(x: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


def _logsumexp(x: Tensor) -> Tensor:
    """Log-sum-exp over the rows of all processes, (B, K) to (K,)."""
    peak = x.max(dim=0).values  # (K,)
    peak = _max(peak)
    return _sum((x - peak).exp().sum(dim=0)).log() + peak


def needs_log_domain(epsilon: float) -> bool:
    """Say whether cosine similarities / epsilon underflow in float32 without the log domain.

    Cosines span 2, so the smallest entry is exp(-2 / epsilon); float32 keeps products of it with
    the scaling vectors down to about 1e-30.
    """
    return 2.0 / epsilon > -math.log(1e-30)
