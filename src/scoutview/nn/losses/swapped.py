"""Swapped prediction: the assignment of one view is predicted from the others."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from scoutview.nn.precision import full_precision


@full_precision
def prototype_scores(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Compare rows (B, D) with prototypes (K, D) in at least float32: (B, K)."""
    return embeddings @ prototypes.T


@full_precision
def swapped_prediction(
    scores: Tensor,
    assignments: Tensor,
    assigned_views: Sequence[int],
    *,
    temperature: float,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Cross entropy between the assignments of some views and the scores of all other views.

    Args:
        scores: Prototype scores, (V, B, K).
        assignments: Soft assignments of the assigned views, (A, B, K), rows sum to 1.
        assigned_views: The view of each assignment, A numbers in [0, V).
        temperature: Softmax temperature of the scores, > 0.
        reduction: "sum" over the pairs of views is the paper's; "mean" divides by their number
            (facebookresearch/swav).

    Returns:
        Loss, mean over the batch, scalar.

    Source: Caron et al., 2020, arXiv:2006.09882, eq. 2 and 6.
    """
    log_p = F.log_softmax(scores / temperature, dim=2)  # (V, B, K), once per view
    everything = log_p.sum(dim=0)  # (B, K)
    loss = scores.new_zeros(())
    for view, assignment in zip(assigned_views, assignments, strict=True):
        others = everything - log_p[view]  # (B, K)
        loss = loss - (assignment * others).sum(dim=1).mean()
    pairs = len(assigned_views) * (len(scores) - 1)
    return loss if reduction == "sum" else loss / pairs
