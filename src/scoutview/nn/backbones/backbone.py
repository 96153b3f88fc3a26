"""The face that a network shows to methods and tasks: pooled features, maps, tokens, pyramid."""

from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scoutview.base.errors import ConfigError


class Dense(NamedTuple):
    """What one pass over images gives: a feature per place, and one per image."""

    cells: Tensor
    """Features row by row, (B, P, token width)."""
    grid: tuple[int, ...]
    """Places along every axis, P in all."""
    pooled: Tensor
    """Features of the whole images, (B, D)."""


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

    @property
    def levels(self) -> tuple[str, ...]:
        """Timm's name of the part of the network that gives each map of `feature_maps`."""
        info = self.model.feature_info
        return tuple(level["module"] for level in (info if isinstance(info, list) else info.info))

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
        return self.cells(self.model.forward_features(x))

    def dense(self, x: Tensor) -> Dense:
        """Compute features of places and of whole images in one pass.

        Args:
            x: Images, (B, C, H, W).

        Returns:
            What `tokens` and `forward` give, and how the places lie.
        """
        out: Tensor = self.model.forward_features(x)
        cells = self.cells(out)
        if out.ndim == 3:  # a transformer's patches have no overlap
            grid = tuple(side // self.strides[-1] for side in x.shape[2:])
        else:
            grid = tuple(out.shape[1:3] if self._channels_last else out.shape[2:])
        return Dense(cells, grid, self.model.forward_head(out))

    @property
    def _channels_last(self) -> bool:
        return getattr(self.model, "output_fmt", "NCHW") == "NHWC"

    def cells(self, out: Tensor) -> Tensor:
        """Lay a map or tokens out row by row.

        Args:
            out: What a level of the network gives: (B, D, h, w), (B, h, w, D) in networks that
                have the channels last, or tokens, (B, prefix + P, D).

        Returns:
            Features of the places, (B, P, D).
        """
        if out.ndim == 3:  # (B, prefix + P, D)
            return out[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if self._channels_last:
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
