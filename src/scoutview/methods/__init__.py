"""Self-supervised methods: one file each, listed here by name. Listing them loads no torch."""

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, cast

from scoutview.base.errors import ConfigError, unknown

if TYPE_CHECKING:
    from scoutview.contract import LabelSpec, Objective
    from scoutview.methods.config import MethodConfig
    from scoutview.nn.backbones import Backbone

METHODS: Final[dict[str, tuple[str, str, str]]] = {
    "barlow_twins": ("scoutview.methods.barlow_twins", "BarlowTwinsConfig", "BarlowTwins"),
    "byol": ("scoutview.methods.byol", "BYOLConfig", "BYOL"),
    "byol_interclr": ("scoutview.methods.byol_interclr", "BYOLInterCLRConfig", "BYOLInterCLR"),
    "deepcluster_v2": ("scoutview.methods.deepcluster_v2", "DeepClusterV2Config", "DeepClusterV2"),
    "dino": ("scoutview.methods.dino", "DINOConfig", "DINO"),
    "infomin": ("scoutview.methods.infomin", "InfoMinConfig", "InfoMin"),
    "insdis": ("scoutview.methods.insdis", "InsDisConfig", "InsDis"),
    "moco_v1": ("scoutview.methods.moco_v1", "MoCoV1Config", "MoCoV2"),
    "moco_v2": ("scoutview.methods.moco_v2", "MoCoV2Config", "MoCoV2"),
    "moco_v2_interclr": (
        "scoutview.methods.moco_v2_interclr",
        "MoCoV2InterCLRConfig",
        "MoCoV2InterCLR",
    ),
    "moco_v3": ("scoutview.methods.moco_v3", "MoCoV3Config", "MoCoV3"),
    "npid_v2": ("scoutview.methods.npid_v2", "NPIDv2Config", "NPIDv2"),
    "npid_v2_interclr": (
        "scoutview.methods.npid_v2_interclr",
        "NPIDv2InterCLRConfig",
        "NPIDv2InterCLR",
    ),
    "pcl_v1": ("scoutview.methods.pcl_v1", "PCLV1Config", "PCL"),
    "pcl_v2": ("scoutview.methods.pcl_v2", "PCLV2Config", "PCL"),
    "pirl": ("scoutview.methods.pirl", "PIRLConfig", "PIRL"),
    "pixpro": ("scoutview.methods.pixpro", "PixProConfig", "PixPro"),
    "sela_v2": ("scoutview.methods.sela_v2", "SeLaV2Config", "SeLaV2"),
    "simclr": ("scoutview.methods.simclr", "SimCLRConfig", "SimCLR"),
    "simclr_v2": ("scoutview.methods.simclr_v2", "SimCLRV2Config", "SimCLRV2"),
    "simsiam": ("scoutview.methods.simsiam", "SimSiamConfig", "SimSiam"),
    "supervised": ("scoutview.methods.supervised", "SupervisedConfig", "Supervised"),
    "swav": ("scoutview.methods.swav", "SwAVConfig", "SwAV"),
    "vicreg": ("scoutview.methods.vicreg", "VICRegConfig", "VICReg"),
}
"""Module, configuration class and method class of each name."""

OUTSIDE: Final = "scoutview.methods"
"""Entry points of methods in other packages: name = module:attribute, a pair of a configuration
class and a method class. Installed packages are looked through only for names not in `METHODS`."""


def config_class(name: str) -> type["MethodConfig"]:
    """Find the configuration class of a method.

    Raises:
        ConfigError: No method has this name.
    """
    return cast("type[MethodConfig]", _load(name, 1))


def method_class(name: str) -> type["Objective"]:
    """Find the class of a method.

    Raises:
        ConfigError: No method has this name.
    """
    return cast("type[Objective]", _load(name, 2))


def _load(name: str, part: int) -> Any:
    if name not in METHODS:
        return _outside(name)[part - 1]
    return getattr(import_module(METHODS[name][0]), METHODS[name][part])


def _outside(name: str) -> tuple[Any, Any]:
    """Load a method of another package."""
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group=OUTSIDE)}
    if name not in points:
        raise unknown("method", name, [*METHODS, *points])
    try:
        config, method = points[name].load()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"Method {name!r} comes from {points[name].value!r}, which must be a pair (a"
            f" configuration class, a method class) of an installed package, but loading it"
            f" failed: {error}"
        ) from error
    return config, method


def build(
    name: str,
    backbone: "Backbone",
    config: "MethodConfig",
    *,
    dataset_size: int,
    num_groups: int = 1,
    labels: "LabelSpec | None" = None,
) -> "Objective":
    """Build a method around a backbone.

    A constructor takes the backbone, the configuration and, by name, what it needs of the rest.

    Args:
        name: A key of `METHODS`.
        backbone: What is trained; the method adds its heads.
        config: The method's configuration, after its `preflight`.
        dataset_size: Images in the training set.
        num_groups: Modality groups in the training set.
        labels: What the targets mean, for methods that use them.

    Raises:
        ConfigError: No method has this name, or the configuration is another method's.
    """
    expected = config_class(name)
    if not isinstance(config, expected):
        raise ConfigError(
            f"{name} needs a {expected.__name__}, got a {type(config).__name__}; build it with"
            f" config_class({name!r})."
        )
    make: Any = method_class(name)
    offered = {"dataset_size": dataset_size, "num_groups": num_groups, "labels": labels}
    wanted = signature(make).parameters
    chosen = {name: value for name, value in offered.items() if name in wanted}
    return cast("Objective", make(backbone, config, **chosen))
