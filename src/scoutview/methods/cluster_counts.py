"""How many clusters a training set can have."""

from typing import Annotated, Final, TypeVar

from pydantic import Field

from scoutview.base.errors import ConfigError
from scoutview.methods.config import MethodConfig

ClusterCounts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
"""Clusters of each clustering; training needs at least 2."""

ENOUGH: Final = 10
"""Images per cluster that defaults leave: with fewer, a cluster says little more than an image."""
FEWEST: Final = 2
"""Images per cluster below which clusters are images."""

C = TypeVar("C", bound=MethodConfig)


def fitted_clusters(config: C, dataset_size: int) -> tuple[C, list[str]]:
    """Lower default `clusters` in proportion until there are ten images for each cluster.

    Args:
        config: A configuration with a field `clusters`.
        dataset_size: Images in the training set.

    Returns:
        The configuration, and a message if it changed or if clusters are thin.

    Raises:
        ConfigError: The user wrote clusters of fewer than two images or fewer than two clusters,
            or there are fewer than four images.
    """
    counts: tuple[int, ...] = config.clusters  # type: ignore[attr-defined]
    most, images = dataset_size // FEWEST, f"there are {dataset_size} training images"
    if most < FEWEST:
        raise ConfigError(
            f"Clustering needs two clusters of two images, {images}; add images, or choose a method"
            " without clusters."
        )
    if min(counts) < 2:
        raise ConfigError(
            f"clusters must be at least 2 to train, got {min(counts)}: one cluster tells no images"
            " apart; raise it."
        )
    if max(counts) * ENOUGH <= dataset_size:
        return config, []
    if "clusters" in config.model_fields_set:
        if max(counts) > most:
            raise ConfigError(
                f"clusters must be at most {most}, because {images} and a cluster of fewer than"
                f" {FEWEST} images tells no images apart; got {max(counts)}, set it to {most}, or"
                f" to {max(2, dataset_size // ENOUGH)} for {ENOUGH} images per cluster."
            )
        each = dataset_size / max(counts)
        note = f"{max(counts)} clusters have {each:.1f} images each; with fewer than {ENOUGH} a"
        return config, [note + " cluster says little more than an image, so lower clusters."]
    wanted = max(2, dataset_size // ENOUGH)
    fitted = tuple(max(2, count * wanted // max(counts)) for count in counts)
    note = f"clusters lowered from {counts} to {fitted}, because {images}."
    return config.model_copy(update={"clusters": fitted}), [note]
