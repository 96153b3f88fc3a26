"""Batches that hold equal parts of several groups of images."""

import torch
from torch import Tensor

from scoutview.base.errors import ConfigError


def check_equal_parts(groups: Tensor, count: int) -> None:
    """Make sure that a batch can be split by group. Waits for the device.

    Args:
        groups: Group of each image, (B,), in [0, count).
        count: Number of groups.

    Raises:
        ConfigError: The groups do not have equally many images.
    """
    images = torch.bincount(groups, minlength=count).tolist()
    if len(images) > count or len(set(images)) > 1:
        raise ConfigError(
            f"A batch must hold equally many images of each of {count} groups, got {images}; sample"
            " with balance_modalities, or set per_modality to false."
        )


def equal_parts(x: Tensor, groups: Tensor, count: int) -> list[Tensor]:
    """Split a batch by group, without waiting for the device.

    Args:
        x: Embeddings of V views, (V, B, D).
        groups: Group of each image, (B,), in [0, count), equally many images of each.
        count: Number of groups, M.

    Returns:
        Embeddings of each group, M times (V, B / M, D), images in their order in the batch.
    """
    if count == 1:
        return [x]
    order = groups.argsort(stable=True)  # (B,)
    return list(x[:, order].chunk(count, dim=1))
