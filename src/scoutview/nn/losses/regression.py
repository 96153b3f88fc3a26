"""Losses that predict one view's representation from the other."""

import torch.nn.functional as F
from torch import Tensor

from scoutview.nn.precision import full_precision


@full_precision
def normalized_regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared distance of unit vectors, 2 - 2 cos.

    Args:
        prediction: (B, D); need not be normalised.
        target: (B, D); need not be normalised. Detach it for a stop-gradient.

    Returns:
        Distance of each row, (B,), in [0, 4].

    Source: Grill et al., 2020, arXiv:2006.07733, eq. 2.
    """
    difference = F.normalize(prediction, dim=1) - F.normalize(target, dim=1)  # (B, D)
    return difference.square().sum(dim=1)
