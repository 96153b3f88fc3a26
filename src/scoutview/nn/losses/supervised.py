"""Losses against labels, some of which are missing."""

import torch
import torch.nn.functional as F
from torch import Tensor

from scoutview.nn.gather import all_sum, world_size
from scoutview.nn.precision import full_precision


@full_precision
def masked_binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, ignore: float, smoothing: float = 0.0
) -> Tensor:
    """Binary cross entropy over the labels that are known.

    Args:
        logits: (B, L).
        targets: In [0, 1], or `ignore` where the label is missing, (B, L).
        ignore: Value of a missing label.
        smoothing: Targets move this far towards 1/2, in [0, 1).

    Returns:
        Loss such that its mean over processes is the mean over all known labels of the global
        batch, scalar; 0 with gradient 0 if none is known.
    """
    known = targets != ignore  # (B, L)
    safe = torch.where(known, targets, torch.zeros_like(targets)).to(logits.dtype)
    safe = safe * (1.0 - smoothing) + 0.5 * smoothing
    each = F.binary_cross_entropy_with_logits(logits, safe, reduction="none")  # (B, L)
    return mean_of_known(each, known)


@full_precision
def masked_cross_entropy(
    logits: Tensor, targets: Tensor, *, ignore: int, smoothing: float = 0.0
) -> Tensor:
    """Cross entropy over the images whose class is known.

    Args:
        logits: (B, K).
        targets: Classes in [0, K), or `ignore` where missing, (B,) int64.
        ignore: Value of a missing class.
        smoothing: Label smoothing, in [0, 1).

    Returns:
        Loss such that its mean over processes is the mean over all known images of the global
        batch, scalar; 0 with gradient 0 if none is known.
    """
    each = F.cross_entropy(
        logits, targets, ignore_index=ignore, reduction="none", label_smoothing=smoothing
    )  # (B,)
    return mean_of_known(each, targets != ignore)


@full_precision
def image_label_loss(
    logits: Tensor, targets: Tensor, *, ignore: int, exclusive: bool
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each image over those of its labels that are known.

    Args:
        logits: (B, L).
        targets: Classes (B,) int64 if `exclusive`, else in [0, 1], (B, L); `ignore` where missing.
        ignore: Value of a missing target.
        exclusive: Whether the logits are the classes of one label.

    Returns:
        Loss of each image, (B,), 0 where nothing is known; whether something is known, (B,).
    """
    if exclusive:
        each = F.cross_entropy(logits, targets, ignore_index=ignore, reduction="none")  # (B,)
        return each, targets != ignore
    known = targets != ignore  # (B, L)
    safe = torch.where(known, targets, torch.zeros_like(targets)).to(logits.dtype)
    terms = F.binary_cross_entropy_with_logits(logits, safe, reduction="none")  # (B, L)
    return (terms * known).sum(dim=1) / known.sum(dim=1).clamp_min(1), known.any(dim=1)


def mean_of_known(each: Tensor, known: Tensor) -> Tensor:
    """Average over what is known in the global batch.

    Args:
        each: Losses, any shape.
        known: Which of them count, same shape.

    Returns:
        Loss such that its mean over processes is the mean over all known losses of the global
        batch, scalar; 0 with gradient 0 if none is known.
    """
    mean_count = all_sum(known.sum().to(each.dtype)) / world_size()
    return (each * known).sum() / mean_count.clamp_min(1.0 / world_size())
