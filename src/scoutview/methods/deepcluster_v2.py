"""DeepCluster v2: images are clustered once per epoch, and every view must tell its cluster.

Source: Caron et al., 2020, arXiv:2006.09882, section 4.1 and appendix; facebookresearch/swav,
main_deepclusterv2.py. First version: Caron et al., 2018, arXiv:1807.05520.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right. The first clustering is of evaluation views instead of random crops. An image that an epoch
leaves out keeps its last rows and has a cluster in the next epoch. Clusters start from k-means++
instead of random rows.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from scoutview.base.randomness import CLUSTERS
from scoutview.contract import Objective, Progress, StepOutput, Sweep
from scoutview.data.batch import IGNORE, Batch
from scoutview.methods.cluster_counts import ClusterCounts, fitted_clusters
from scoutview.methods.config import MethodConfig
from scoutview.methods.view_counts import check_view_numbers
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.crop_memory import CropMemory
from scoutview.nn.heads import mlp
from scoutview.nn.kmeans import kmeans
from scoutview.nn.losses.clusters import cluster_cross_entropy
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.nn.precision import unit
from scoutview.nn.seeds import Seed
from scoutview.nn.sweep import encode_sweep, merged
from scoutview.views.policy import Augment, Intensity, MultiCrop

_AUGMENT = Augment(intensity=Intensity(brightness=0.8, contrast=0.8, blur_probability=0.5))


class DeepClusterV2Config(MethodConfig):
    """Defaults are the paper's."""

    views: MultiCrop = MultiCrop(augment=(_AUGMENT,))
    """A few large crops and many small ones."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections and prototypes."""
    clusters: ClusterCounts = (3000, 3000, 3000)
    """Clusters of each head; each head clusters the images by itself."""
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the prediction."""
    memory_views: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    """Views that are remembered and clustered; head h clusters the one at h mod their number."""
    kmeans_rounds: int = Field(default=10, ge=1)
    """Rounds of spherical k-means between epochs."""
    seeding: Literal["k-means++", "random"] = "k-means++"
    """Where centroids start; "random" rows are those of facebookresearch/swav."""
    empty_clusters: Literal["keep", "split"] = "keep"
    """A centroid without images stays where it is, or takes half of a large cluster."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.3, weight_decay=1e-6, adapt_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=10, start=0.0625, final=0.001)
    """Learning-rate schedule."""

    def preflight(
        self, dataset_size: int, batch_size: int
    ) -> tuple["DeepClusterV2Config", list[str]]:
        """Keep enough images for every cluster."""
        check_view_numbers("memory_views", self.memory_views, self.views.n_views)
        return fitted_clusters(self, dataset_size)


class DeepClusterV2(Objective):
    """See the module docstring."""

    assignments: Tensor
    """Cluster of each image for each head, (H, N) int64; -100 before its first clustering."""
    largest: Tensor
    """Share of the images that the largest cluster of each head holds, (H,)."""

    def __init__(
        self, backbone: Backbone, config: DeepClusterV2Config, *, dataset_size: int
    ) -> None:
        super().__init__()
        heads = len(config.clusters)
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.hidden_dim, config.output_dim, batch_norm=True)
        self.memory = CropMemory(len(config.memory_views), dataset_size, config.output_dim)
        self.seed = Seed()
        for head, clusters in enumerate(config.clusters):
            self.register_buffer(f"prototypes{head}", torch.zeros(clusters, config.output_dim))
        self.register_buffer("assignments", torch.full((heads, dataset_size), IGNORE))
        self.register_buffer("largest", torch.zeros(heads))
        self.config = config
        self._new_rows: list[tuple[Tensor, Tensor]] = []

    @property
    def prototypes(self) -> list[Tensor]:
        """Centroids of each head, (K_h, output_dim): the weights of its classifier."""
        return [self.get_buffer(f"prototypes{h}") for h in range(len(self.config.clusters))]

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell the clusters of every image from each of its views."""
        features = encode_views(self.backbone, batch.views)  # (V B, dim)
        embeddings = unit(self.projector(features))  # (V B, output_dim)
        embeddings = embeddings.view(len(batch.views), len(batch), -1)
        loss = self.cluster_loss(embeddings, batch.rows)
        chance = sum(math.log(k) for k in self.config.clusters) / len(self.config.clusters)
        logs = {
            "chance_loss": torch.full_like(loss.detach(), chance),
            "largest_cluster": self.largest.max(),
        }
        return StepOutput(loss, logs, features[: len(batch)])

    def cluster_loss(self, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Compute the loss of unit vectors, (V, B, output_dim), of the images `rows`, (B,)."""
        chosen = embeddings.detach()[list(self.config.memory_views)]  # (A, B, output_dim)
        self._new_rows.append((rows, chosen))
        return cluster_cross_entropy(
            embeddings,
            self.prototypes,
            self.assignments[:, rows],
            temperature=self.config.temperature,
            missing=IGNORE,
        )

    def after_update(self, progress: Progress) -> None:
        """Remember the projections of the step."""
        for rows, values in self._new_rows:  # one entry per accumulated part
            self.memory.write(rows, values)
        self._new_rows.clear()

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """Cluster what the last epoch left in the memory; before the first one, fill it."""
        if not bool(self.memory.filled.any()):
            parts = ((batch.rows, batch.views[0]) for batch in sweep())
            rows, projections = encode_sweep(parts, self.backbone, self.projector)
            self.memory.fill(rows, unit(projections))
        self.cluster(progress.epoch)

    @torch.no_grad()
    def cluster(self, epoch: int, start: list[Tensor] | None = None) -> None:
        """Give every head new clusters and prototypes.

        Args:
            epoch: Each epoch has its own draws.
            start: First centroids of each head, (K_h, output_dim), instead of a seeding.
        """
        config = self.config
        for head, prototypes in enumerate(self.prototypes):
            rows, values, positions = self.memory.share(head % len(config.memory_views))
            found = kmeans(
                values,
                len(prototypes),
                rounds=config.kmeans_rounds,
                spherical=True,
                seeding=config.seeding,
                empty=config.empty_clusters,
                seed=self.seed.number(CLUSTERS, epoch, head),
                numbers=positions,
                start=None if start is None else start[head],
            )
            prototypes.copy_(found.centroids)
            unknown = torch.full_like(self.assignments[head], IGNORE)
            self.assignments[head] = merged(rows, found.assignment, into=unknown)
            self.largest[head] = found.counts.max() / found.counts.sum()
