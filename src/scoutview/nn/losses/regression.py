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


@full_precision
def symmetric_regression(
    prediction0: Tensor, prediction1: Tensor, target0: Tensor, target1: Tensor
) -> Tensor:
    """Predict each view's target from the other view.

    Args:
        prediction0: Student's prediction from the first view, (B, D).
        prediction1: Student's prediction from the second view, (B, D).
        target0: Teacher's projection of the first view, (B, D), detached.
        target1: Teacher's projection of the second view, (B, D), detached.

    Returns:
        Sum of the two directions, mean over the batch, scalar in [0, 8].

    Source: Grill et al., 2020, arXiv:2006.07733, section 3.1.
    """
    forward = normalized_regression(prediction0, target1)
    backward = normalized_regression(prediction1, target0)
    return (forward + backward).mean()


@full_precision
def symmetric_negative_cosine(
    prediction0: Tensor, prediction1: Tensor, target0: Tensor, target1: Tensor
) -> Tensor:
    """Predict each view's target from the other view; the scale of SimSiam.

    Args:
        prediction0: Prediction from the first view, (B, D).
        prediction1: Prediction from the second view, (B, D).
        target0: Projection of the first view, (B, D), detached.
        target1: Projection of the second view, (B, D), detached.

    Returns:
        Negative cosine, mean of the two directions and over the batch, scalar in [-1, 1]; that of
        a zero vector is 0.

    Source: Chen & He, 2021, arXiv:2011.10566, eq. 1 and 2.
    """
    forward = F.cosine_similarity(prediction0, target1, dim=1)
    backward = F.cosine_similarity(prediction1, target0, dim=1)
    return -(forward + backward).mean() / 2.0
