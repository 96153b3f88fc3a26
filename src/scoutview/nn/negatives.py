"""Which rows of a bank repel a query: by how similar they are, never those of its own cluster.

The paper draws K rows from the tenth of all candidates that is most similar to the query. The most
similar tenth of 10 K uniformly drawn rows has the same distribution, up to the noise of a quantile,
and costs the same for any bank. A bank of at most 10 K rows is looked at as a whole.
"""

import math
from typing import Final, Literal

import torch
from torch import Tensor

from scoutview.nn.losses.margin import leave_out, log_sum_exp
from scoutview.nn.precision import full_precision

Sampling = Literal["semihard", "hard", "random", "semieasy"]
"""From the most similar share of the candidates, the most similar ones, any, or from the least
similar share."""

_QUANTILE_ROWS: Final = 8192
"""Drawn rows that decide where the pool ends: its size is then right within 3 %."""
_ROUNDING: Final = 1e-9
"""A tenth of 30 is 3, although 0.1 * 30 > 3."""


def drawn_rows(sampling: Sampling, count: int, pool: float) -> int:
    """Rows of the bank that a step looks at for `count` negatives; of a smaller bank it is all.

    Args:
        sampling: How negatives are chosen.
        count: Negatives per query, K.
        pool: Share of the candidates that the pool holds, in (0, 1].
    """
    return count if sampling == "random" else math.ceil(count / pool - _ROUNDING)


def pool_size(sampling: Sampling, candidates: int, pool: float) -> int:
    """Negatives that there can be among a number of candidates.

    Args:
        sampling: How negatives are chosen.
        candidates: Rows of other clusters.
        pool: Share of the candidates that the pool holds, in (0, 1].
    """
    return math.ceil(candidates * pool - _ROUNDING) if "semi" in sampling else candidates


def spread_rows(draws: Tensor, length: int) -> Tensor:
    """Turn random numbers into distinct rows, in rising order but for one turn of the ring.

    The rows are a ring, turned by the last draw and cut into equal parts; each part gives one row.
    Every row is equally likely, and memory is read in one direction.

    Args:
        draws: Uniform numbers in [0, length), (M + 1,) int64, M <= length.
        length: Number of rows, N.

    Returns:
        Rows, (M,) int64.
    """
    count = len(draws) - 1
    parts = torch.arange(count + 1, device=draws.device, dtype=torch.float64)
    edges = (parts * (length / count)).long()  # (M + 1,)
    edges[-1] = length
    widths = edges[1:] - edges[:-1]
    inside = (draws[:-1].double() / length * widths).long()  # below the width: draws / N < 1
    rows = edges[:-1] + inside + draws[-1]
    return rows - length * (rows >= length).long()


@full_precision
def negatives_log_sum_exp(
    query: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    own: Tensor,
    others: Tensor,
    count: int,
    temperature: float,
    sampling: Sampling = "semihard",
    pool: float = 0.1,
    pool_of: Literal["candidates", "bank"] = "candidates",
    rows: Tensor | None = None,
    length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp over K negatives of each query, without listing them.

    The whole pool counts, weighted as K draws from it: that is what the draws would give on
    average, with less noise.

    Args:
        query: Unit vectors, (B, D).
        features: Unit vectors, (N, D).
        labels: Cluster of each of the N vectors, (N,) integers.
        own: Cluster of each query, (B,) integers, whose vectors are no candidates.
        others: Vectors of the whole bank with another label than the query's, (B,).
        count: Negatives per query, K; no more than the pool holds.
        temperature: Softmax temperature, > 0.
        sampling: See `Sampling`.
        pool: Share of the candidates that the pool of "semihard" and "semieasy" holds, in (0, 1].
        pool_of: The pool is a share of the "candidates" (paper), or of the "bank", from which the
            query's own cluster is removed afterwards (open-mmlab/mmselfsup).
        rows: The drawn rows, (M,) int64, see `drawn_rows`; None looks at all.
        length: Rows of the whole bank if `features` is only the drawn part of it.

    Returns:
        Log-sum-exp of each query, (B,), and the number of negatives for which it stands, (B,).

    Source: Xie et al., 2022, arXiv:2008.11702, section 4.2.
    """
    length = length or len(features)
    cut = None
    if sampling != "random":
        cut = _cut(query, features, labels, own, count, sampling, pool, pool_of, rows, length)
    total, found = log_sum_exp(
        query,
        features,
        temperature=temperature,
        rows=rows,
        labels=labels,
        own=own,
        cut=cut,
        farthest=sampling == "semieasy",
    )
    held = others.double() if pool_of == "candidates" else torch.full_like(total, length).double()
    if "semi" in sampling:
        held = torch.ceil(held * pool - _ROUNDING)
    wanted = held.clamp_max(count).to(total)  # (B,)
    weight = torch.where(found > 0, wanted / found.clamp_min(1), 1.0)
    return total + weight.log(), wanted


@torch.no_grad()
def _cut(
    query: Tensor,
    features: Tensor,
    labels: Tensor,
    own: Tensor,
    count: int,
    sampling: Sampling,
    pool: float,
    pool_of: str,
    rows: Tensor | None,
    length: int,
) -> Tensor:
    """Cosine at which each query's pool ends, (B,)."""
    seen = len(features) if rows is None else len(rows)
    whole = seen == length
    if not whole and seen > _QUANTILE_ROWS:  # every k-th drawn row is as uniform as all of them
        every = -(-seen // _QUANTILE_ROWS)
        rows = rows[::every] if rows is not None else torch.arange(0, seen, every).to(own.device)
    if rows is not None:
        features, labels = features.index_select(0, rows), labels.index_select(0, rows)
    near = query @ features.to(query.dtype).T  # (B, n)
    if sampling == "semieasy":
        near = -near
    n = near.shape[1]
    other = (labels != own[:, None]).to(near)  # (B, n)
    candidates = other.sum(dim=1).double()  # (B,)
    if pool_of == "bank":
        candidates.fill_(n)
    if pool_of == "candidates" or sampling == "hard":
        leave_out(near, other)
    if sampling == "hard":
        most = min(n, math.ceil(count * n / length - _ROUNDING))
        cut = near.topk(most, dim=1).values[:, -1]
    else:
        most = math.ceil(pool * n - _ROUNDING)
        wanted = torch.ceil(candidates * pool - _ROUNDING).long().clamp(1, most)
        cut = near.topk(most, dim=1).values.gather(1, wanted[:, None] - 1)[:, 0]
    # The same cosine may come out an ulp smaller from a product of another shape.
    cut = cut - 4 * torch.finfo(cut.dtype).eps
    return -cut if sampling == "semieasy" else cut


@torch.no_grad()
def nearest_rows(
    query: Tensor,
    features: Tensor,
    count: int,
    *,
    labels: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """List the rows most similar to each query, to look at them.

    Args:
        query: Unit vectors, (B, D).
        features: Unit vectors, (N, D).
        count: Rows to list, K <= N.
        labels: Cluster of each row, (N,); None excludes nothing.
        own: Cluster of each query, (B,), whose rows are left out.

    Returns:
        Rows, most similar first, (B, K) int64.
    """
    near = query @ features.to(query.dtype).T  # (B, N)
    if labels is not None and own is not None:
        near = near.masked_fill(labels == own[:, None], -math.inf)
    return near.topk(count, dim=1).indices
