"""Any timm network by name, for any number of channels, with or without a small-image stem."""

import difflib
import logging
from typing import Any, Final, Literal

import timm
from pydantic import Field
from timm.models import is_model, list_models, split_model_name_tag
from timm.models.resnet import ResNet
from torch import nn

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.nn.backbones.backbone import Backbone
from scoutview.nn.backbones.weights import load_file, load_hub

log = logging.getLogger(__name__)

_TRANSFORMERS: Final = (
    "beit",
    "cait",
    "deit",
    "eva",
    "swin_transformer",
    "swin_transformer_v2",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vision_transformer_sam",
    "volo",
    "xcit",
)
"""Modules of timm whose networks take patches as tokens."""


class BackboneConfig(Config):
    """Which network, and how it starts."""

    name: str = "resnet50"
    """timm name of a 2D network."""
    in_channels: int = Field(default=1, ge=1)
    """Channels of the images."""
    small_stem: bool = False
    """ResNets only: a 3x3 stem of stride 1 and no max-pool, for images below about 64 pixels."""
    weights: str | None = None
    """Start: null for random, "imagenet" for timm's hub weights, or a file."""
    image_size: int | None = Field(default=None, ge=1)
    """Side of the images, for transformers whose position embedding needs it."""
    stage_widths: tuple[int, ...] | None = None
    """ResNets only: channels of the stages, for a narrower network."""
    stage_depths: tuple[int, ...] | None = None
    """ResNets only: blocks of the stages."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth rate."""


def network_kind(config: BackboneConfig) -> Literal["convolutional", "transformer"]:
    """Say which of the two kinds a network is; methods have other defaults for each."""
    transformer = timm.models.is_model_in_modules(config.name, _TRANSFORMERS)
    return "transformer" if transformer else "convolutional"


def timm_arguments(config: BackboneConfig) -> dict[str, Any]:
    """Give the arguments with which `timm.create_model` builds the same network.

    A small stem is not among timm's arguments: replace `conv1` by
    `nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)` and `maxpool` by `nn.Identity()`.
    """
    arguments: dict[str, Any] = {
        "model_name": config.name,
        "in_chans": config.in_channels,
        "num_classes": 0,
    }
    if config.stage_widths is not None:
        arguments["channels"] = config.stage_widths
    if config.stage_depths is not None:
        arguments["layers"] = config.stage_depths
    if config.drop_path:
        arguments["drop_path_rate"] = config.drop_path
    if config.image_size is not None:
        arguments["img_size"] = config.image_size
    if timm.models.is_model_in_modules(config.name, ["vision_transformer", "eva"]):
        arguments["dynamic_img_size"] = True  # crops of several sizes share the weights
    return arguments


def build_backbone(config: BackboneConfig) -> Backbone:
    """Build a network and give it its first weights.

    Raises:
        ConfigError: timm does not know the name, the network cannot take an option, or the weights
            cannot be had.
    """
    base, _ = split_model_name_tag(config.name)
    if not is_model(base):
        near = difflib.get_close_matches(base, list_models(), n=3)
        raise ConfigError(
            f"Unknown backbone {base!r}. Nearest in timm: {', '.join(near) or 'none'};"
            " timm.list_models() lists all."
        )
    try:
        model = timm.create_model(**timm_arguments(config))
    except (TypeError, RuntimeError) as error:  # an option or a weight tag it does not have
        raise ConfigError(f"timm cannot build backbone {config.name!r}: {error}") from error
    reductions, widths = _levels(model)
    if config.small_stem:
        _check_small_stem(model, config)
        _replace_stem(model, config.in_channels)
        reductions = tuple(max(1, reduction // 4) for reduction in reductions)
    if config.weights == "imagenet":
        load_hub(model, config.name)
    elif config.weights is not None:
        load_file(model, config.weights)
    return Backbone(model, in_channels=config.in_channels, strides=reductions, widths=widths)


def _levels(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read stride and channels of each level from timm's feature info."""
    info = model.feature_info
    levels = info if isinstance(info, list) else info.info
    return tuple(i["reduction"] for i in levels), tuple(i["num_chs"] for i in levels)


def _check_small_stem(model: Any, config: BackboneConfig) -> None:
    if not isinstance(model, ResNet):
        raise ConfigError(
            f"small_stem needs a ResNet of timm, got {config.name!r}; set small_stem to false or"
            " choose for example 'resnet18'."
        )
    if config.weights == "imagenet":
        raise ConfigError(
            "ImageNet weights have a 7x7 stem and cannot start a network with small_stem; drop one."
        )


def _replace_stem(model: Any, in_channels: int) -> None:
    """Put a 3x3 convolution of stride 1 in place of the stem and its max-pool."""
    conv = nn.Conv2d(in_channels, model.bn1.num_features, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as timm's others
    model.conv1 = conv
    model.maxpool = nn.Identity()
