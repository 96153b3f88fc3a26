"""The face that a network shows to methods and tasks: pooled features, maps, tokens, pyramid."""

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from scoutview.base.errors import ConfigError


class Backbone(nn.Module):
    """A timm network without its classifier.

    Attributes:
        model: The timm network; its state dict has timm's own names.
        dim: Width D of the pooled features.
        in_channels: Channels of the images.
        ndim: Spatial dimensions of the images.
        strides: Stride of each map of `feature_maps`, fine to coarse.
        widths: Channels of each map of `feature_maps`.
    """

    def __init__(
        self, model: Any, *, in_channels: int, strides: tuple[int, ...], widths: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.model = model
        self.dim: int = getattr(model, "head_hidden_size", None) or model.num_features
        self.in_channels = in_channels
        self.ndim = 2
        self.strides = strides
        self.widths = widths

    def forward(self, x: Tensor) -> Tensor:
        """Compute pooled features.

        Args:
            x: Images, (B, C, H, W).

        Returns:
            Features, (B, D).
        """
        features: Tensor = self.model(x)
        return features

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Compute maps at several levels, coarse last.

        Args:
            x: Images, (B, C, H, W).

        Returns:
            One (B, widths[i], H / strides[i], W / strides[i]) map per level. Convolutional networks
            give one per stage, transformers one per block.

        Raises:
            ConfigError: timm cannot take maps from this network.
        """
        if not hasattr(self.model, "forward_intermediates"):
            name = type(self.model).__name__
            raise ConfigError(f"{name} gives no feature maps in timm; choose another backbone.")
        maps: list[Tensor] = self.model.forward_intermediates(x, intermediates_only=True)
        return maps

    def pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Compute the last map of every stride.

        Args:
            x: Images, (B, C, H, W).

        Returns:
            Map (B, widths, H / stride, W / stride) by stride, fine first.
        """
        return dict(zip(self.strides, self.feature_maps(x), strict=True))

    def tokens(self, x: Tensor) -> Tensor:
        """Compute one feature per place: the patch tokens, or the cells of the last map.

        Args:
            x: Images, (B, C, H, W).

        Returns:
            Features row by row, (B, P, token width); class and register tokens are left out.
        """
        out: Tensor = self.model.forward_features(x)
        if out.ndim == 3:  # (B, prefix + P, D)
            return out[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return out.flatten(1, 2)  # (B, P, D)
        return out.flatten(2).transpose(1, 2)  # (B, P, D)


def encode_views(backbone: nn.Module, views: list[Tensor]) -> Tensor:
    """Run a network on views of several sizes, once per size.

    Args:
        backbone: Maps (B, C, *S) to (B, D).
        views: One tensor per view, (B, C, *S); views of one size stand together.

    Returns:
        Features, view by view, (V B, D).
    """
    groups = [list(group) for _, group in groupby(views, key=lambda view: view.shape)]
    return torch.cat([backbone(torch.cat(group)) for group in groups])
