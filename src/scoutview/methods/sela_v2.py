"""SeLa v2: labels that use all classes equally often are computed, then predicted from every view.

Source: Caron et al., 2020, arXiv:2006.09882, section 4.1 and appendix; the labels: Asano et al.,
2020, arXiv:1911.05371, and yukimasano/self-label.
Deviations: no training code of this version is public, so what the paper leaves open follows our
DeepCluster v2 (memory, heads, schedule) and the first SeLa (labels). Labels change between epochs,
not within them. Views without colour and without flips, because our images are grey and have a left
and a right.
"""

import logging
import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scoutview.contract import Objective, Progress, StepOutput, Sweep
from scoutview.data.batch import IGNORE, Batch
from scoutview.methods.cluster_counts import ClusterCounts, fitted_clusters
from scoutview.methods.config import MethodConfig
from scoutview.methods.view_counts import check_view_numbers
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.crop_memory import CropMemory
from scoutview.nn.gather import rank
from scoutview.nn.heads import mlp
from scoutview.nn.losses.clusters import cluster_cross_entropy
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.nn.partition import equal_partition, prototype_log_probabilities
from scoutview.nn.precision import unit
from scoutview.nn.sweep import encode_sweep, merged
from scoutview.views.policy import Augment, Intensity, MultiCrop

logger = logging.getLogger(__name__)

_AUGMENT = Augment(intensity=Intensity(brightness=0.8, contrast=0.8, blur_probability=0.5))


class SeLaV2Config(MethodConfig):
    """Defaults are the paper's where it gives them."""

    views: MultiCrop = MultiCrop(augment=(_AUGMENT,))
    """A few large crops and many small ones."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections and prototypes."""
    clusters: ClusterCounts = (3000, 3000, 3000)
    """Labels of each head; each head labels the images by itself."""
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the prediction."""
    memory_views: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    """Views that are remembered and labelled; head h labels the one at h mod their number."""
    sharpness: float = Field(default=25.0, gt=0)
    """Weight of the predictions against equal shares, lambda: log-probabilities are multiplied."""
    tolerance: float = Field(default=0.1, gt=0)
    """Labels are found when the scales of all images together change by less in a round."""
    sinkhorn_iterations: int = Field(default=1000, ge=1)
    """Most rounds for the labels of one head; a warning says when they did not suffice."""
    label_updates: int | None = Field(default=None, ge=2)
    """Times at which labels are computed, dense at the start (the first SeLa: 100); null is before
    every epoch."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.3, weight_decay=1e-6, adapt_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=10, start=0.0625, final=0.001)
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["SeLaV2Config", list[str]]:
        """Keep enough images for every label."""
        check_view_numbers("memory_views", self.memory_views, self.views.n_views)
        return fitted_clusters(self, dataset_size)


def relabels(epoch: int, total_epochs: int, updates: int | None) -> bool:
    """Say whether labels are computed before an epoch.

    Update i of n is due at (i / (n - 1))^2 of the training and a hundredth of an epoch, as in the
    first SeLa; an update within an epoch waits for the next one.

    Args:
        epoch: Counted from 0.
        total_epochs: Length of the training.
        updates: Number of updates; None is before every epoch.
    """
    if updates is None or epoch == 0:
        return True
    due = [(total_epochs + 0.01) * (i / (updates - 1)) ** 2 for i in range(updates)]
    return any(epoch - 1 < moment <= epoch for moment in due)


class SeLaV2(Objective):
    """See the module docstring."""

    assignments: Tensor
    """Label of each image for each head, (H, N) int64; -100 before its first labelling."""

    def __init__(self, backbone: Backbone, config: SeLaV2Config, *, dataset_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.hidden_dim, config.output_dim, batch_norm=True)
        self.prototypes = nn.ParameterList(
            F.normalize(torch.randn(count, config.output_dim), dim=1) for count in config.clusters
        )
        self.memory = CropMemory(len(config.memory_views), dataset_size, config.output_dim)
        unknown = torch.full((len(config.clusters), dataset_size), IGNORE)
        self.register_buffer("assignments", unknown)
        self.config = config
        self._new_rows: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell the labels of every image from each of its views."""
        config = self.config
        features = encode_views(self.backbone, batch.views)  # (V B, dim)
        embeddings = unit(self.projector(features))  # (V B, output_dim)
        embeddings = embeddings.view(len(batch.views), len(batch), -1)
        loss = cluster_cross_entropy(
            embeddings,
            list(self.prototypes),
            self.assignments[:, batch.rows],
            temperature=config.temperature,
            missing=IGNORE,
        )
        chosen = embeddings.detach()[list(config.memory_views)]  # (A, B, output_dim)
        self._new_rows.append((batch.rows, chosen))
        chance = sum(math.log(k) for k in config.clusters) / len(config.clusters)
        logs = {"chance_loss": torch.full_like(loss.detach(), chance)}
        return StepOutput(loss, logs, features[: len(batch)])

    @torch.no_grad()
    def after_update(self, progress: Progress) -> None:
        """Remember the projections of the step and bring the prototypes back to unit length."""
        for rows, values in self._new_rows:  # one entry per accumulated part
            self.memory.write(rows, values)
        self._new_rows.clear()
        for prototypes in self.prototypes:
            prototypes.copy_(F.normalize(prototypes, dim=1))

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """Label all images anew; before the first epoch, fill the memory."""
        if not bool(self.memory.filled.any()):
            parts = ((batch.rows, batch.views[0]) for batch in sweep())
            rows, projections = encode_sweep(parts, self.backbone, self.projector)
            self.memory.fill(rows, unit(projections))
        if relabels(progress.epoch, progress.total_epochs, self.config.label_updates):
            self.label()

    @torch.no_grad()
    def label(self) -> None:
        """Compute the labels of every head from the memory."""
        config = self.config
        for head, prototypes in enumerate(self.prototypes):
            rows, values, _ = self.memory.share(head % len(config.memory_views))
            found = equal_partition(
                prototype_log_probabilities(
                    values,
                    prototypes.detach(),
                    temperature=config.temperature,
                    sharpness=config.sharpness,
                ),
                tolerance=config.tolerance,
                rounds=config.sinkhorn_iterations,
            )
            if found.moved > config.tolerance and rank() == 0:
                logger.warning(
                    "Labels of head %d were not found in %d rounds: scales still change by %.3g,"
                    " the tolerance is %g; raise sinkhorn_iterations, or lower sharpness.",
                    head,
                    found.rounds,
                    found.moved,
                    config.tolerance,
                )
            unknown = torch.full_like(self.assignments[head], IGNORE)
            self.assignments[head] = merged(rows, found.labels, into=unknown)
