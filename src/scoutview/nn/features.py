"""What can be read from features alone: is the representation alive?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from scoutview.nn.precision import full_precision


@torch.no_grad()
@full_precision
def feature_std(features: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of unit-length features, times sqrt(D).

    Args:
        features: (N, D), N >= 2.

    Returns:
        Scalar: about 1 for features spread over the sphere, 0 when all images look the same.

    Source: Chen & He, 2021, arXiv:2011.10566, section 4.1 (scaled by sqrt(D)).
    """
    spread = F.normalize(features, dim=1).std(dim=0).mean()
    return spread * float(features.shape[1] ** 0.5)


@torch.no_grad()
@full_precision
def effective_rank(features: Tensor) -> Tensor:
    """RankMe: exponential of the entropy of the normalised singular values.

    Args:
        features: (N, D).

    Returns:
        Scalar in [1, min(N, D)].

    Source: Garrido et al., 2023, arXiv:2210.02885, eq. 1 and 2.
    """
    singular = torch.linalg.svdvals(features)  # (min(N, D),)
    p = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny) + 1e-7
    return torch.exp(-(p * p.log()).sum()).clamp_min(1.0)


@torch.no_grad()
@full_precision
def alignment(z0: Tensor, z1: Tensor) -> Tensor:
    """Mean squared distance of the unit vectors of two views of one image.

    Args:
        z0: Features of the first views, (N, D).
        z1: Features of the second views, (N, D).

    Returns:
        Scalar in [0, 4]; lower is better aligned.

    Source: Wang & Isola, 2020, arXiv:2005.10242, section 4.1.1 (alpha = 2).
    """
    return (F.normalize(z0, dim=1) - F.normalize(z1, dim=1)).square().sum(dim=1).mean()


@torch.no_grad()
@full_precision
def uniformity(z: Tensor) -> Tensor:
    """Logarithm of the mean Gaussian potential of all pairs of unit vectors.

    Args:
        z: Features, (N, D), N >= 2.

    Returns:
        Scalar in [-4 t, 0] with t = 2; lower is more uniform.

    Source: Wang & Isola, 2020, arXiv:2005.10242, section 4.1.2 (t = 2).
    """
    return torch.pdist(F.normalize(z, dim=1)).square().mul(-2.0).exp().mean().log()
