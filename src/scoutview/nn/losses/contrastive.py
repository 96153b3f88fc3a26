"""Losses that attract views of one image and repel other images."""

import itertools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from scoutview.nn.gather import all_gather, rank, world_size
from scoutview.nn.losses.margin import BITS, leave_out
from scoutview.nn.precision import full_precision


@full_precision
def nt_xent_logits(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float,
    normalise: bool = True,
    negatives: Tensor | None = None,
    same: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compare the anchors of this process with the views of all processes.

    Args:
        z0: Projections of the first views, (B, D); need not be normalised.
        z1: Projections of the second views, (B, D); row i pairs with z0[i].
        temperature: Softmax temperature, > 0.
        normalise: Compare unit vectors (paper), or projections as they are.
        negatives: Further rows that every anchor is compared with, (K, D), the same in every
            process.
        same: Where a negative is of the anchor's image, (B, K) bool: it does not count.

    Returns:
        Logits, (2B, 2 world B + K), -inf where an anchor meets its own image, and the column of
        each anchor's partner, (2B,). Columns are the first views of all processes, then the second
        views, then `negatives`.
    """
    n, total = len(z0), len(z0) * world_size()
    own = torch.cat([z0, z1])  # (2B, D)
    if normalise:
        own = F.normalize(own, dim=1)
    others = torch.cat([all_gather(own[:n]), all_gather(own[n:])])  # (2 world B, D)
    first = torch.arange(n, device=z0.device) + rank() * n  # (B,) columns of the own first views
    self_columns = torch.cat([first, first + total])  # (2B,)
    logits = own @ others.T / temperature  # (2B, 2 world B)
    logits = logits.scatter(1, self_columns[:, None], float("-inf"))  # no anchor repels itself
    if negatives is not None:
        others = own @ negatives.T / temperature  # (2B, K)
        if same is not None:
            others = others.masked_fill(same.repeat(2, 1), float("-inf"))
        logits = torch.cat([logits, others], dim=1)
    return logits, torch.cat([first + total, first])


@full_precision
def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float,
    reduction: Literal["mean", "sum_of_views"] = "mean",
    normalise: bool = True,
    negatives: Tensor | None = None,
    same: Tensor | None = None,
) -> Tensor:
    """Normalised temperature-scaled cross entropy.

    Args:
        z0: Projections of the first views, (B, D); need not be normalised.
        z1: Projections of the second views, (B, D); row i pairs with z0[i].
        temperature: Softmax temperature, > 0.
        reduction: "mean" over the 2B anchors is the paper's; "sum_of_views" adds the means of the
            two views and is twice that (google-research/simclr, tf2/objective.py).
        normalise: Compare unit vectors (paper), or projections as they are (hidden_norm=False of
            google-research/simclr).
        negatives: Further rows that repel every anchor, (K, D), the same in every process: the
            memory of SimCLR v2.
        same: Where a negative is of the anchor's image, (B, K) bool: it does not count.

    Returns:
        Loss of this process's anchors against the views of all processes, scalar.

    Source: Chen et al., 2020, arXiv:2002.05709, eq. 1.
    """
    logits, partner = nt_xent_logits(
        z0, z1, temperature=temperature, normalise=normalise, negatives=negatives, same=same
    )
    loss = F.cross_entropy(logits, partner)
    return 2.0 * loss if reduction == "sum_of_views" else loss


@full_precision
def info_nce_logits(
    query: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float
) -> Tensor:
    """Compare each query with its positive and with shared negatives.

    Args:
        query: Unit vectors, (B, D).
        positive: Unit vectors, (B, D); row i belongs to query i.
        negatives: Unit vectors, (K, D).
        temperature: Softmax temperature, > 0.

    Returns:
        Logits, (B, 1 + K), the positive first.

    Source: He et al., 2019, arXiv:1911.05722, eq. 1.
    """
    own = (query * positive).sum(dim=1, keepdim=True)  # (B, 1)
    return torch.cat([own, query @ negatives.T], dim=1) / temperature


@full_precision
def info_nce(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    own: Tensor | None = None,
    images: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the positive among the negatives.

    Args:
        query: Unit vectors, (B, D).
        positive: Unit vectors, (B, D); row i belongs to query i.
        negatives: Unit vectors, (K, D).
        temperature: Softmax temperature, > 0.
        own: Image of each query, (B,) integers; its negatives do not count. None counts all.
        images: Image of each negative, (K,) integers; goes with `own`.

    Returns:
        Mean loss over the queries, scalar.

    Source: He et al., 2019, arXiv:1911.05722, eq. 1.
    """
    if negatives.requires_grad:
        logits = info_nce_logits(query, positive, negatives, temperature=temperature)
        if own is not None and images is not None:
            same = F.pad(own[:, None] == images, (1, 0))  # (B, 1 + K), the positive counts
            logits = logits.masked_fill(same, float("-inf"))
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
    loss: Tensor = _FixedNegatives.apply(query, positive, negatives, temperature, own, images)
    return loss


class _FixedNegatives(torch.autograd.Function):
    """`info_nce` without gradient for the negatives, block by block.

    The (B, K) logits never exist: a block stays in the cache from its product to its share of the
    gradient, which is ready when the loss is. The running maximum follows Milakov & Gimelshein,
    2018, arXiv:1805.02867, algorithm 3. With p = softmax(logits), p+ that of the positive k+:
    d loss / d query = (sum p k + (p+ - 1) k+) / (B T), d loss / d k+ = (p+ - 1) query / (B T).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor,
        temperature: float,
        own: Tensor | None,
        images: Tensor | None,
    ) -> Tensor:
        scaled = query * (BITS / temperature)  # (B, D), logits of powers of 2
        partner = (scaled * positive).sum(dim=1, keepdim=True)  # (B, 1)
        peak, total = partner, torch.ones_like(partner)  # (B, 1): highest logit, sum of exp below
        pull = torch.zeros_like(query)  # (B, D) sum of exp times negative
        step = _block_rows(query)
        holders = _holders(own, images, step)
        for start in range(0, len(negatives), step):
            block = negatives[start : start + step]
            logits = scaled @ block.T  # (B, rows)
            if own is not None and images is not None:
                places = holders[start // step] if holders is not None else None
                _leave_out_own(logits, own, images[start : start + step], places)
            highest = torch.maximum(peak, logits.amax(dim=1, keepdim=True))
            shrink, peak = (peak - highest).exp2(), highest
            weights = logits.sub_(peak).exp2_()  # (B, rows)
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            pull = torch.addmm(pull * shrink, weights, block)
        surprise = total.log() + (peak - partner) / BITS  # (B, 1) = -log p+
        rest = torch.expm1(-surprise)  # (B, 1) = p+ - 1
        share = 1.0 / (len(query) * temperature)
        ctx.save_for_backward((pull / total + rest * positive) * share, rest * query * share)
        return surprise.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        towards_query, towards_positive = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            grad * towards_query if wanted[0] else None,
            grad * towards_positive if wanted[1] else None,
            *[None] * 4,
        )


def _holders(own: Tensor | None, images: Tensor | None, step: int) -> list[Tensor] | None:
    """For each block of `step` negatives, the places in it that hold an image of a query.

    Hardly any place does, so that on a CPU it pays to look for them first; elsewhere the host would
    have to wait for what was found, and None says that whole blocks are compared.
    """
    if own is None or images is None or images.device.type != "cpu":
        return None
    # A table is ten times as fast as torch.isin; -1, an unknown image, reads its last entry.
    asked = torch.zeros(int(torch.maximum(images.max(), own.max())) + 2, dtype=torch.bool)
    asked[own] = True
    places = asked[images].nonzero()[:, 0]  # (M,), rising
    starts = torch.arange(0, len(images) + step, step)
    bounds: list[int] = torch.searchsorted(places, starts).tolist()
    return [
        places[low:high] - number * step
        for number, (low, high) in enumerate(itertools.pairwise(bounds))
    ]


def _leave_out_own(logits: Tensor, own: Tensor, images: Tensor, places: Tensor | None) -> None:
    """Give negatives of the queries' own images no weight, logits (B, rows) in place."""
    if places is None:
        leave_out(logits, (images != own[:, None]).to(logits.dtype))
    elif len(places):
        same = images[places] == own[:, None]  # (B, M)
        logits[:, places] = logits[:, places].masked_fill_(same, -math.inf)


def _block_rows(query: Tensor) -> int:
    """Rows of a block of negatives: on a CPU its logits fit the cache, elsewhere few launches."""
    entries = 2**17 if query.device.type == "cpu" else 2**25
    return max(1, entries // len(query))


@full_precision
def in_batch_info_nce(query: Tensor, key: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy of each query's key among the keys of the batch, times 2 T.

    Args:
        query: Predictions of this process, (B, D); need not be normalised.
        key: The teacher's projections, (B, D); row i belongs to query i. They get no gradient.
        temperature: Softmax temperature T, > 0.

    Returns:
        Mean loss of this process's queries against the keys of all processes, scalar.

    Source: Chen et al., 2021, arXiv:2104.02057, algorithm 1.
    """
    keys = all_gather(F.normalize(key.detach(), dim=1))  # (world B, D)
    logits = F.normalize(query, dim=1) @ keys.T / temperature  # (B, world B)
    own = torch.arange(len(query), device=query.device) + rank() * len(query)  # (B,)
    return 2.0 * temperature * F.cross_entropy(logits, own)
