"""Losses on the variance and correlation of features over the batch."""

import torch
from torch import Tensor

from scoutview.nn.gather import all_gather, all_sum, world_size
from scoutview.nn.precision import full_precision


@full_precision
def cross_correlation(z0: Tensor, z1: Tensor, *, eps: float = 0.0) -> Tensor:
    """Correlate the features of two views over the batch of all processes.

    Args:
        z0: Projections of the first views, (B, D).
        z1: Projections of the second views, (B, D); row i pairs with z0[i].
        eps: Added to the variance. 0 is the paper's; facebookresearch/barlowtwins has 1e-5 from
            its batch norm.

    Returns:
        Correlations, (D, D); 0 for features that do not vary.
    """
    x, y = _standardised(z0, z1, eps)  # (B, D) each
    return all_sum(x.T @ y) / (len(x) * world_size())


def _standardised(z0: Tensor, z1: Tensor, eps: float) -> Tensor:
    """Bring every feature of both views to mean 0 and variance 1 over all processes, (2, B, D)."""
    n = len(z0) * world_size()
    z = torch.stack([z0, z1])  # (2, B, D)
    z = z - all_sum(z.sum(dim=1, keepdim=True)) / n
    variance = all_sum(z.square().sum(dim=1, keepdim=True)) / n  # (2, 1, D)
    return z * (variance + eps).clamp_min(1e-12).rsqrt()  # a constant feature gives 0, not NaN


@full_precision
def barlow_twins_loss(z0: Tensor, z1: Tensor, *, off_diagonal: float, eps: float = 0.0) -> Tensor:
    """Push the cross-correlation of two views towards the identity.

    Args:
        z0: Projections of the first views, (B, D).
        z1: Projections of the second views, (B, D); row i pairs with z0[i].
        off_diagonal: Weight of the redundancy term, lambda.
        eps: Added to the variance; see `cross_correlation`.

    Returns:
        Loss of the batch of all processes, scalar, the same in every process.

    Source: Zbontar et al., 2021, arXiv:2103.03230, eq. 1 and 2.
    """
    n, d = len(z0) * world_size(), z0.shape[1]
    if n < d:
        # The squares of x^T y, (D, D), have the sum of (x x^T) * (y y^T), (N, N), which is smaller.
        x, y = (all_gather(z) for z in _standardised(z0, z1, eps))  # (N, D) each
        diagonal = (x * y).sum(dim=0) / n  # (D,)
        squares = ((x @ x.T) * (y @ y.T)).sum() / n**2
    else:
        c = cross_correlation(z0, z1, eps=eps)
        diagonal, squares = c.diagonal(), c.square().sum()
    redundancy = squares - diagonal.square().sum()
    return (diagonal - 1.0).square().sum() + off_diagonal * redundancy


@full_precision
def vicreg_terms(
    z0: Tensor, z1: Tensor, *, gamma: float = 1.0, eps: float = 1e-4
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure how far two views differ, how narrow their features are, and how redundant.

    Args:
        z0: Projections of the first views, (B, D).
        z1: Projections of the second views, (B, D); row i pairs with z0[i].
        gamma: Standard deviation that every feature should reach.
        eps: Added to the variance inside the root.

    Returns:
        Invariance (squared distance of the pairs, mean over the batch), variance (mean over the
        features of what the standard deviation lacks, sum of both views), covariance (squared
        entries off the diagonal / D, sum of both views): scalars of the batch of all processes,
        the same in every process.

    Source: Bardes et al., 2022, arXiv:2105.04906, eq. 1 to 5.
    """
    z = torch.stack([all_gather(z0), all_gather(z1)])  # (2, N, D)
    n, d = z.shape[1:]
    invariance = (z[0] - z[1]).square().sum(dim=1).mean()
    z = z - z.mean(dim=1, keepdim=True)
    variance = z.square().sum(dim=1) / (n - 1)  # (2, D), the diagonal of the covariance
    lacking = torch.relu(gamma - (variance + eps).sqrt()).sum() / d
    # z z^T and z^T z have the same sum of squares; the smaller of the two is cheaper.
    product = z @ z.mT if n < d else z.mT @ z
    squares = product.square().sum() / (n - 1) ** 2
    return invariance, lacking, (squares - variance.square().sum()) / d
