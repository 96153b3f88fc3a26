"""Cross entropy with a margin, and the negatives of a cluster without a list of them."""

import math
from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from scoutview.nn.precision import full_precision

BITS: Final = math.log2(math.e)
"""exp(x) = 2^(x log2 e), and exp2 takes 0.4 of the time of exp on a CPU."""


@full_precision
def margin_nce(
    cosine: Tensor,
    negatives: Tensor,
    *,
    temperature: float,
    margin: float = 0.0,
    arc_margin: float = 0.0,
) -> Tensor:
    """Cross entropy of a positive with a margin among negatives.

    Args:
        cosine: Cosine of each query and its positive, (B,).
        negatives: Log-sum-exp of each query's cosines with its negatives / temperature, (B,).
        temperature: Softmax temperature, > 0.
        margin: Subtracted from the positive's cosine: a positive one asks for more, a negative one
            for less.
        arc_margin: Added to the angle between query and positive, in radians, before `margin`.
            Where the angle leaves [0, pi] the cosine would turn round; there it goes on linearly,
            as in open-mmlab/mmselfsup.

    Returns:
        Loss of each query, (B,).

    Source: Xie et al., 2022, arXiv:2008.11702, eq. 6, with the positive in the first term of the
    denominator, where the equation prints the negative.
    """
    if arc_margin:
        inside = 1.0 - torch.finfo(cosine.dtype).eps  # the slope of the angle is infinite at 1
        angle = torch.acos(cosine.clamp(-inside, inside)) + arc_margin
        beyond = cosine - arc_margin * math.sin(abs(arc_margin))
        cosine = torch.where((angle > 0.0) & (angle < math.pi), torch.cos(angle), beyond)
    return -F.logsigmoid((cosine - margin) / temperature - negatives)


@full_precision
def log_sum_exp(
    query: Tensor,
    features: Tensor,
    *,
    temperature: float,
    rows: Tensor | None = None,
    labels: Tensor | None = None,
    own: Tensor | None = None,
    cut: Tensor | None = None,
    farthest: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the cosines with many vectors, block by block, with closed-form gradient.

    Neither the (B, M) cosines nor a (B, M, D) copy of the vectors ever exist: a block stays in the
    cache from its product to its share of the gradient, which is softmax(cosines) @ vectors and
    ready when the sum is. The running maximum follows Milakov & Gimelshein, 2018,
    arXiv:1805.02867, algorithm 3.

    Args:
        query: Unit vectors, (B, D); the only input with a gradient.
        features: Unit vectors, (N, D).
        temperature: Softmax temperature, > 0.
        rows: Which of the vectors count, (M,) int64; None is all of them.
        labels: Cluster of each of the N vectors, (N,) integers; None excludes nothing.
        own: Cluster of each query, (B,), whose vectors do not count.
        cut: Count only cosines of at least this, (B,); None counts all.
        farthest: Count cosines of at most `cut` instead.

    Returns:
        Log-sum-exp of each query, (B,), -inf where nothing counts, and how many vectors count,
        (B,).
    """
    total, count = _LogSumExp.apply(query, features, temperature, rows, labels, own, cut, farthest)
    return total, count


class _LogSumExp(torch.autograd.Function):
    """See `log_sum_exp`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        features: Tensor,
        temperature: float,
        rows: Tensor | None,
        labels: Tensor | None,
        own: Tensor | None,
        cut: Tensor | None,
        farthest: bool,
    ) -> tuple[Tensor, Tensor]:
        scale = BITS / temperature
        scaled = query * scale  # (B, D)
        lowest = query.new_full((len(query), 1), -scale)
        bound = None if cut is None else cut[:, None].to(query) * scale  # (B, 1)
        peak = lowest if bound is None else torch.where(bound.isfinite(), bound, lowest)
        total = torch.zeros_like(peak)  # (B, 1) sum of 2^(logit - peak)
        count = torch.zeros_like(peak)  # (B, 1)
        pull = torch.zeros_like(query)  # (B, D) sum of 2^(logit - peak) times vector
        for block, names, logits, kept, spare in _blocks(query, features, rows, labels):
            torch.mm(scaled, block.T, out=logits)  # (B, R)
            kept.fill_(1.0)
            if bound is not None:
                (torch.le if farthest else torch.ge)(logits, bound, out=kept)
            if names is not None and own is not None:
                kept.mul_(torch.ne(names, own[:, None], out=spare))
            count = count + kept.sum(dim=1, keepdim=True)
            leave_out(logits, kept)
            highest = torch.maximum(peak, logits.amax(dim=1, keepdim=True))
            shrink, peak = (peak - highest).exp2(), highest
            weights = logits.sub_(peak).exp2_()  # (B, R)
            total = total * shrink + weights.sum(dim=1, keepdim=True)
            pull = torch.addmm(pull * shrink, weights, block)
        ctx.save_for_backward(pull / (total.clamp_min(torch.finfo(total.dtype).tiny) * temperature))
        ctx.mark_non_differentiable(count)
        return (total.log() + peak / BITS)[:, 0], count[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (mean,) = ctx.saved_tensors
        return (grad[:, None] * mean, *[None] * 7)


def leave_out(cosines: Tensor, kept: Tensor) -> None:
    """Set entries to -inf in place where `kept` is 0 instead of 1; `kept` is used up.

    Filling by a mask would be a branch per entry, which costs a CPU ten times as much.
    """
    torch.minimum(cosines, kept.sub_(0.5).mul_(math.inf), out=cosines)


def _blocks(
    query: Tensor, features: Tensor, rows: Tensor | None, labels: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]]:
    """Go through the vectors block by block, always in the same memory.

    Yields:
        Vectors, (R, D), their labels, (R,), and room for three (B, R).
    """
    size, b = len(features) if rows is None else len(rows), len(query)
    step = min(size, _block_rows(query))
    rooms = query.new_empty(3, b * step)
    gathered = features.new_empty(0 if rows is None else step, features.shape[1])
    for start in range(0, size, step):
        stop = min(start + step, size)
        if rows is None:
            block = features[start:stop]
            names = None if labels is None else labels[start:stop]
        else:
            here = rows[start:stop]
            block = torch.index_select(features, 0, here, out=gathered[: stop - start])
            names = None if labels is None else labels.index_select(0, here)
        first, second, third = (room[: b * (stop - start)].view(b, -1) for room in rooms)
        yield block.to(query.dtype), names, first, second, third


def _block_rows(query: Tensor) -> int:
    """Vectors of a block: on a CPU it fits the cache, elsewhere there are few launches."""
    entries = 2**16 if query.device.type == "cpu" else 2**25
    return max(1, entries // len(query))
