"""Losses whose targets are clusters of the training set: labels, and prototypes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scoutview.nn.gather import all_gather, all_sum, rank, world_size
from scoutview.nn.precision import full_precision


@full_precision
def cluster_cross_entropy(
    embeddings: Tensor,
    prototypes: Sequence[Tensor],
    labels: Tensor,
    *,
    temperature: float,
    missing: int = -100,
) -> Tensor:
    """Predict the clusters of every image from each of its views.

    Args:
        embeddings: Unit vectors, (V, B, D).
        prototypes: Of each head, (K_h, D); heads may have different K.
        labels: Cluster of each image for each head, (H, B) int64, or `missing`.
        temperature: Softmax temperature of the cosines, > 0.
        missing: Label that does not count.

    Returns:
        Mean over heads of the mean over the views of all labelled images of all processes, scalar;
        this process's share of it, times the number of processes. 0 without any label.

    Source: Caron et al., 2020, arXiv:2006.09882, section 4.1 and appendix; facebookresearch/swav,
    main_deepclusterv2.py (mean over rows that have a label).
    """
    views = len(embeddings)
    flat = embeddings.flatten(0, 1)  # (V B, D)
    counts = all_sum((labels != missing).sum(dim=1).to(flat.dtype)) * views  # (H,)
    loss = flat.new_zeros(())
    for weight, label, count in zip(prototypes, labels, counts.clamp_min(1), strict=True):
        scores = flat @ weight.T / temperature  # (V B, K)
        total = F.cross_entropy(scores, label.repeat(views), ignore_index=missing, reduction="sum")
        loss = loss + total / count
    return loss * (world_size() / len(prototypes))


@full_precision
def proto_nce_logits(
    query: Tensor,
    prototypes: Tensor,
    concentration: Tensor,
    own: Tensor,
    negatives: Tensor,
    *,
    in_batch: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compare each query with the prototype of its image and with others.

    Args:
        query: Unit vectors, (B, D).
        prototypes: Unit vectors, (K, D).
        concentration: Temperature of each prototype, (K,), > 0.
        own: Prototype of each query's image, (B,) int64.
        negatives: Prototypes that all queries are compared with, (r,) int64.
        in_batch: Also compare with the prototypes of the other images of the global batch, even if
            they are the own one (salesforce/PCL).

    Returns:
        Logits, and the column of each query's own prototype, (B,). In the paper's form the logits
        are (B, 1 + r), the own prototype first, -inf where a negative is the own one; with
        `in_batch` they are (B, world B + r), the prototypes of the batch in its order first.

    Source: Li et al., 2020, arXiv:2005.04966, eq. 11.
    """
    others = query @ prototypes[negatives].T / concentration[negatives]  # (B, r)
    if in_batch:
        batch = all_gather(own)  # (world B,)
        first = query @ prototypes[batch].T / concentration[batch]  # (B, world B)
        column = torch.arange(len(own), device=own.device) + rank() * len(own)
        return torch.cat([first, others], dim=1), column
    others = others.masked_fill(negatives == own[:, None], float("-inf"))
    first = (query * prototypes[own]).sum(dim=1, keepdim=True) / concentration[own][:, None]
    return torch.cat([first, others], dim=1), torch.zeros_like(own)


@full_precision
def proto_nce(
    query: Tensor,
    prototypes: Tensor,
    concentration: Tensor,
    own: Tensor,
    negatives: Tensor,
    *,
    in_batch: bool = False,
) -> Tensor:
    """Cross entropy of the own prototype among others; see `proto_nce_logits`.

    Args:
        query: Unit vectors, (B, D).
        prototypes: Unit vectors, (K, D).
        concentration: Temperature of each prototype, (K,), > 0.
        own: Prototype of each query's image, (B,) int64; below 0 for images without one, which do
            not count.
        negatives: Prototypes that all queries are compared with, (r,) int64.
        in_batch: Also compare with the prototypes of the other images of the global batch.

    Returns:
        Mean over the queries of all processes that have a prototype, scalar; this process's share
        of it, times the number of processes. 0 without any.

    Source: Li et al., 2020, arXiv:2005.04966, eq. 11 (mean instead of sum over images).
    """
    known = own >= 0
    logits, column = proto_nce_logits(
        query, prototypes, concentration, own.clamp_min(0), negatives, in_batch=in_batch
    )
    each = F.cross_entropy(logits, column, reduction="none")  # (B,)
    count = all_sum(known.sum().to(each.dtype)).clamp_min(1)
    return torch.where(known, each, 0.0).sum() * (world_size() / count)
