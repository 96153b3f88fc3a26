"""Networks that turn images into features; every method and task receives one of them."""

from scoutview.nn.backbones.backbone import Backbone, Dense, encode_views
from scoutview.nn.backbones.build import (
    BackboneConfig,
    build_backbone,
    network_kind,
    timm_arguments,
)

__all__ = [
    "Backbone",
    "BackboneConfig",
    "Dense",
    "build_backbone",
    "encode_views",
    "network_kind",
    "timm_arguments",
]
