"""Assignments of rows to prototypes."""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from scoutview.nn.gather import world_size
from scoutview.nn.precision import full_precision


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
        iterations: Rounds of row and column scaling, >= 1.
        keep: Return only the last `keep` rows (the batch behind a queue); None returns all.
        log_domain: Slower, for scores / epsilon that span more than about 80, where exp underflows.

    Returns:
        Assignments, (keep, K); each row sums to 1.

    Source: Caron et al., 2020, arXiv:2006.09882, section 3.1; Cuturi, 2013, arXiv:1306.0895.
    """
    logits = scores / epsilon
    kept = logits if keep is None else logits[len(logits) - keep :]
    if log_domain:
        return _sinkhorn_log(logits, kept, iterations)
    peak = _max(logits.max())  # one constant for all rows: it cancels in the first scaling
    mass, kept = (logits - peak).exp(), (kept - peak).exp()  # (B, K), (keep, K)
    rows = mass.new_ones(len(mass))  # (B,)
    for _ in range(iterations):
        prototypes = 1.0 / _sum(mass.T @ rows)  # (K,)
        prototypes = prototypes / prototypes.sum()  # the scale is free; without this it drifts
        rows = 1.0 / (mass @ prototypes)  # (B,)
    assigned = kept * prototypes  # (keep, K)
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
