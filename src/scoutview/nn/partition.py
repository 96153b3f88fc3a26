"""Labels for a whole training set such that all labels are used equally often."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from scoutview.nn.gather import world_size
from scoutview.nn.kmeans import chunk_rows
from scoutview.nn.precision import full_precision

Chunks = Callable[[], Iterable[Tensor]]
"""Starts a pass over log-probabilities, (chunk, K) each, the same at every call."""

_CHECK_EVERY = 10
"""Rounds between two looks at what still moves, as in the published code."""
_KEPT = 2**24
"""Log-probabilities up to which all are kept from pass to pass (64 MB)."""


@dataclass(frozen=True)
class Partition:
    """A transport plan between images and labels, as two scaling vectors, and its labels."""

    labels: Tensor
    """Most likely label of each row of this process, (n,) int64."""
    log_rows: Tensor
    """Logarithm of the scale of each row of this process, (n,)."""
    log_labels: Tensor
    """Logarithm of the scale of each label, (K,); the plan is exp(x + log_rows + log_labels)."""
    rounds: int
    """Rounds that were done."""
    moved: float
    """By how much the scales of all rows changed in the last round, relative and summed."""


@torch.no_grad()
def equal_partition(chunks: Chunks, *, tolerance: float = 0.1, rounds: int = 1000) -> Partition:
    """Solve for the plan in which every row has mass 1 / N and every label 1 / K.

    Sinkhorn in the logarithm, so that no probability underflows, and chunk by chunk, so that of the
    (N, K) plan only the two scaling vectors are kept. The rows of all processes count together.

    Args:
        chunks: Log-probabilities times the sharpness (lambda), rows of this process in chunks.
        tolerance: Stop when the scales of the rows change by less, relative and summed over the
            rows of all processes; looked at in rounds 0, 10, 20, ..., and in the last one.
        rounds: Most rounds, >= 1.

    Returns:
        Labels and scales.

    Source: Asano et al., 2020, arXiv:1911.05371, eq. 6 to 8; yukimasano/self-label,
    sinkhornknopp.py (`optimize_L_sk`); Cuturi, 2013, arXiv:1306.0895.
    """
    rows, labels = 0, 0
    for chunk in chunks():
        rows, labels = rows + len(chunk), chunk.shape[1]
    total = int(_sum(torch.tensor(rows, device=chunk.device)))
    log_rows = chunk.new_full((rows,), -math.log(total))  # (n,)
    mass = _log_mass(chunks, log_rows, log_rows.new_zeros(labels))
    done, moved = 0, math.inf
    for done in range(1, rounds + 1):
        log_labels = -math.log(labels) - mass  # (K,)
        before = log_rows.clone()
        mass = _log_mass(chunks, log_rows, log_labels, total=total)
        if (done - 1) % _CHECK_EVERY == 0 or done == rounds:
            moved = float(_sum(((before - log_rows).exp() - 1.0).abs().sum()))
            if moved <= tolerance:
                break
    found = torch.cat([(chunk + log_labels).argmax(dim=1) for chunk in chunks()])
    return Partition(found, log_rows, log_labels, done, moved)


def _log_mass(
    chunks: Chunks, log_rows: Tensor, log_labels: Tensor, *, total: int | None = None
) -> Tensor:
    """Logarithm of what the rows give to each label before its scale, (K,).

    With `total`, the rows are first scaled to mass 1 / total under `log_labels`, in place.
    """
    mass = torch.full_like(log_labels, -torch.inf)  # (K,)
    begin = 0
    for chunk in chunks():
        place = slice(begin, begin + len(chunk))
        if total is not None:
            log_rows[place] = -math.log(total) - torch.logsumexp(chunk + log_labels, dim=1)
        own = torch.logsumexp(chunk + log_rows[place, None], dim=0)  # (K,)
        mass = torch.logaddexp(mass, own)
        begin += len(chunk)
    if world_size() == 1:
        return mass
    peak = mass.clone()
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return _sum((mass - peak).exp()).log() + peak


def _sum(x: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(x)
    return x


@full_precision
def prototype_log_probabilities(
    rows: Tensor, prototypes: Tensor, *, temperature: float, sharpness: float
) -> Chunks:
    """Log-probabilities of labels under cosine prototypes; many are computed anew in each pass.

    Args:
        rows: Unit vectors, (n, D).
        prototypes: Unit vectors, (K, D).
        temperature: Softmax temperature, > 0.
        sharpness: Factor of the log-probabilities, lambda, > 0.

    Returns:
        What `equal_partition` takes.
    """
    step = chunk_rows(len(prototypes), rows.device)

    def chunks() -> Iterable[Tensor]:
        for part in torch.split(rows, step):
            yield sharpness * F.log_softmax(part @ prototypes.T / temperature, dim=1)

    if len(rows) * len(prototypes) > _KEPT:
        return chunks
    kept = list(chunks())
    return lambda: kept
