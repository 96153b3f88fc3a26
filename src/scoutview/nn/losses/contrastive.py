"""Losses that attract views of one image and repel other images."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from scoutview.nn.gather import all_gather, rank, world_size
from scoutview.nn.precision import full_precision


@full_precision
def nt_xent_logits(
    z0: Tensor, z1: Tensor, *, temperature: float, normalise: bool = True
) -> tuple[Tensor, Tensor]:
    """Compare the anchors of this process with the views of all processes.

    Args:
        z0: Projections of the first views, (B, D); need not be normalised.
        z1: Projections of the second views, (B, D); row i pairs with z0[i].
        temperature: Softmax temperature, > 0.
        normalise: Compare unit vectors (paper), or projections as they are.

    Returns:
        Logits, (2B, 2 world B), -inf where an anchor meets itself, and the column of each anchor's
        partner, (2B,). Columns are the first views of all processes, then the second views.
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
    return logits, torch.cat([first + total, first])


@full_precision
def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float,
    reduction: Literal["mean", "sum_of_views"] = "mean",
    normalise: bool = True,
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

    Returns:
        Loss of this process's anchors against the views of all processes, scalar.

    Source: Chen et al., 2020, arXiv:2002.05709, eq. 1.
    """
    logits, partner = nt_xent_logits(z0, z1, temperature=temperature, normalise=normalise)
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
def info_nce(query: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy of the positive among the negatives.

    Args:
        query: Unit vectors, (B, D).
        positive: Unit vectors, (B, D); row i belongs to query i.
        negatives: Unit vectors, (K, D).
        temperature: Softmax temperature, > 0.

    Returns:
        Mean loss over the queries, scalar.

    Source: He et al., 2019, arXiv:1911.05722, eq. 1.
    """
    logits = info_nce_logits(query, positive, negatives, temperature=temperature)
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
