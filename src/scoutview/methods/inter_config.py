"""Settings of InterCLR's inter-image branch, and what data of a size can bear.

Source: Xie et al., 2022, arXiv:2008.11702.
"""

from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from scoutview.base.errors import ConfigError
from scoutview.methods.cluster_counts import ENOUGH
from scoutview.methods.config import MethodConfig, lowered
from scoutview.nn.losses.margin import margin_nce
from scoutview.nn.negatives import Sampling, pool_size

_PER_CLUSTER = 128
"""Images per cluster that the default leaves: as many as the paper has."""


class InterConfig(MethodConfig):
    """Settings of the inter-image branch; defaults are the paper's."""

    inter_clusters: int = Field(default=10000, ge=1)
    """Number of clusters; training needs at least 2."""
    min_cluster: int = Field(default=20, ge=1)
    """Clusters with fewer images are dissolved, and a large one is halved for each."""
    smallest_half: int | None = Field(default=None, ge=1)
    """Fewest images of a half; null is `min_cluster`, 1 is open-mmlab/mmselfsup's."""
    relabel: Literal["online", "offline"] = "online"
    """Labels follow every step, or come from k-means over the bank before every epoch."""
    refresh_every: int = Field(default=100, ge=1)
    """Steps between exact sums over the bank with repair of small clusters (1 in mmselfsup)."""
    kmeans_rounds: int = Field(default=20, ge=1)
    """Rounds of k-means over the whole bank."""
    distance: Literal["euclidean", "dot"] = "euclidean"
    """What the nearest centroid is: the paper's, or "dot" as in open-mmlab/mmselfsup."""
    positive_may_be_query: bool = False
    """Whether an image may be drawn as its own positive, as in open-mmlab/mmselfsup."""
    intra_weight: float = Field(default=0.75, ge=0, le=1)
    """Weight of the base method's loss, lambda; the branch has the rest."""
    inter_from_epoch: int = Field(default=0, ge=0)
    """First epoch, counted from 0, in which the branch joins the loss."""
    separate_head: bool = False
    """Give the branch its own head, which starts as a copy of the base's."""

    def first_epochs(self) -> dict[str, tuple[float, str]]:
        """Let the branch join before the training ends."""
        return {"inter_from_epoch": (0.5, "the branch never joins")}


class InterNegativesConfig(InterConfig):
    """Settings of the inter-image branch of methods with negatives; defaults are the paper's."""

    inter_negatives: int = Field(default=16384, ge=1)
    """Negatives per image; at most what the pool holds."""
    sampling: Sampling = "semihard"
    """Negatives from the most similar share, the most similar ones, any, or the least similar."""
    pool_share: float = Field(default=0.1, gt=0, le=1)
    """Share of the candidates that the pool of "semihard" and "semieasy" holds."""
    pool_of: Literal["candidates", "bank"] = "candidates"
    """Own cluster removed before the pool is formed (paper), or after it (open-mmlab/mmselfsup)."""
    intra_margin: float = Field(default=0.0, ge=-2, le=2)
    """Margin between views of one image."""
    inter_margin: float = Field(default=-0.5, ge=-2, le=2)
    """Margin between images of one cluster; below 0 the loss asks for less."""
    margin_form: Literal["cosine", "arc"] = "cosine"
    """Margins are subtracted from the cosine, or added to the angle in radians."""

    def margin_nce(self, cosine: Tensor, negatives: Tensor, margin: float, heat: float) -> Tensor:
        """Compute the loss of each query, (B,); see `nn.losses.margin.margin_nce`."""
        form = {"margin": margin} if self.margin_form == "cosine" else {"arc_margin": margin}
        return margin_nce(cosine, negatives, temperature=heat, **form)

    def chance(self, negatives: Tensor, margin: float, heat: float) -> Tensor:
        """Give the loss when all images look alike, for (B,) numbers of negatives, scalar."""
        alike = torch.ones_like(negatives)
        total = negatives.log() + 1.0 / heat
        return self.margin_nce(alike, total, margin, heat).mean()


C = TypeVar("C", bound=InterConfig)


def fitted_inter(config: C, dataset_size: int) -> tuple[C, list[str]]:
    """Keep clusters and negatives within the data.

    Args:
        config: A configuration.
        dataset_size: Images in the training set.

    Returns:
        The configuration with lowered defaults, and a message for each.

    Raises:
        ConfigError: A value that the user wrote cannot work; names the largest that can.
    """
    images = f"there are {dataset_size} training images"
    if dataset_size < 4:
        raise ConfigError(
            f"InterCLR needs two clusters of two images, {images}; add images, or choose the base"
            " method."
        )
    if config.inter_clusters < 2:
        raise ConfigError(
            f"inter_clusters must be at least 2 to train, got {config.inter_clusters}: one cluster"
            " has no negatives; raise it."
        )
    written = config.model_fields_set
    smallest = config.min_cluster if "min_cluster" in written else 2
    most = max(2, dataset_size // (smallest if "inter_clusters" in written else _PER_CLUSTER))
    if "inter_clusters" not in written:
        most = max(2, min(most, dataset_size // smallest))
    config, notes = lowered(config, "inter_clusters", most, images)
    each = dataset_size // config.inter_clusters
    if each < ENOUGH:
        notes.append(
            f"{config.inter_clusters} clusters have {dataset_size / config.inter_clusters:.1f}"
            f" images each; with fewer than {ENOUGH} a cluster says little more than an image, so"
            " lower inter_clusters."
        )
    most = each if "min_cluster" in written else max(1, each // 4)
    why = f"{dataset_size} training images in {config.inter_clusters} clusters are {each} for each"
    config, more = lowered(config, "min_cluster", most, why)
    notes += more
    if isinstance(config, InterNegativesConfig):
        candidates = dataset_size - (each if config.pool_of == "candidates" else 0)
        most = pool_size(config.sampling, candidates, config.pool_share)
        whose = "of other clusters" if config.pool_of == "candidates" else "of the bank"
        why = f"{config.sampling} sampling has {most} of the {candidates} images {whose}"
        config, more = lowered(config, "inter_negatives", most, why)
        notes += more
    return config, notes
