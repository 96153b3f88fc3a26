"""PCL v2: a view finds its partner in a queue, and its image's prototypes among other prototypes.

Source: Li et al., 2020, arXiv:2005.04966; salesforce/PCL. Version 2 has the head, views and
schedule of Chen et al., 2020, arXiv:2003.04297.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right. The warm-up is a share of the training instead of a number of epochs, so that short
trainings keep the proportion. Concentrations of clusters that show no width are defined. A query
is not told from old keys of its own image. The queue needs no length that is a multiple of the
batch.
"""

import math
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.contract import Objective, Progress, StepOutput, Sweep
from scoutview.data.batch import Batch
from scoutview.methods.cluster_counts import ClusterCounts, fitted_clusters
from scoutview.methods.config import MethodConfig, lowered, lowered_queue
from scoutview.nn.backbones import Backbone
from scoutview.nn.gather import world_size
from scoutview.nn.heads import mlp
from scoutview.nn.losses.contrastive import info_nce
from scoutview.nn.optim_config import CosineSchedule, OptimizerConfig, ScheduleConfig, SGDConfig
from scoutview.nn.precision import unit
from scoutview.nn.prototype_sets import PrototypeSet
from scoutview.nn.queues import Queue
from scoutview.nn.sweep import encode_sweep
from scoutview.nn.teacher import frozen_copy, teacher_keys, update_teacher
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.5))


class PCLV2Config(MethodConfig):
    """Defaults are the paper's; the temperature is that of MoCo v2 and of the published code."""

    views: TwoCrops = TwoCrops(scale=(0.2, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections and prototypes."""
    projector_layers: int = Field(default=2, ge=1)
    """Linear layers of the projector."""
    temperature: float = Field(default=0.2, gt=0)
    """Softmax temperature of the queue, and mean temperature of the prototypes."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Share of the teacher that stays at each update."""
    queue_length: int = Field(default=16000, ge=1)
    """Keys in the queue."""
    own_keys: Literal["skip", "count"] = "skip"
    """Old keys of a query's own image are no negatives, or "count" (salesforce/PCL)."""
    clusters: ClusterCounts = (25000, 50000, 100000)
    """Clusters of each clustering."""
    negative_prototypes: int = Field(default=16000, ge=1)
    """Other prototypes that an image is compared with, or all others if there are fewer."""
    prototype_warmup: float = Field(default=0.1, ge=0, le=1)
    """Share of the epochs at the start without prototypes; 20 of the paper's 200."""
    kmeans_rounds: int = Field(default=20, ge=1)
    """Rounds of k-means."""
    kmeans_restarts: int = Field(default=5, ge=1)
    """Times that k-means starts anew; the tightest clustering is taken."""
    percentiles: tuple[float, float] | None = None
    """Clip concentrations to these percentiles; (10, 90) is salesforce/PCL's, null the paper's."""
    prototype_negatives: Literal["sampled", "batch"] = "sampled"
    """Only "sampled" ones (paper), or also those of the other images of the "batch", even where
    they are the image's own (salesforce/PCL)."""
    shuffle_batch_norm: bool = True
    """Shuffle images between processes for the keys; no effect with synchronised batch norm."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.03, weight_decay=1e-4, decay_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(per="epoch")
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["PCLV2Config", list[str]]:
        """Keep enough images for every cluster, and the queue within the data."""
        config, notes = lowered_queue(self, dataset_size, batch_size)
        config, more = fitted_clusters(config, dataset_size)
        if "negative_prototypes" not in self.model_fields_set:  # written, it may be more
            most = max(config.clusters)
            why = f"the finest clustering has {most} prototypes"
            config, few = lowered(config, "negative_prototypes", most, why)
            more += few
        return config, more + notes

    def preflight_budget(self, epochs: float) -> tuple[Self, list[str]]:
        """Let an epoch with prototypes begin."""
        config, notes = super().preflight_budget(epochs)
        last = (
            math.ceil(epochs) - 1
        )  # the epoch that begins last, before which images are clustered
        if last >= self.prototype_warmup * epochs:
            return config, notes
        why = f"the training has {epochs:g} epochs and clusters only before one begins"
        most = math.floor(1000 * last / epochs) / 1000
        if "prototype_warmup" in self.model_fields_set:
            raise ConfigError(
                f"prototype_warmup must be at most {most:g}, because {why}; got"
                f" {self.prototype_warmup:g}, set it to {most:g}."
            )
        notes.append(
            f"prototype_warmup lowered from {self.prototype_warmup:g} to {most:g}, because {why}."
        )
        return config.with_defaults(prototype_warmup=most), notes


class PCL(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: PCLV2Config, *, dataset_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(
            backbone.dim, config.hidden_dim, config.output_dim, layers=config.projector_layers
        )
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.projector)
        self.queue = Queue(config.queue_length, config.output_dim, random=True)
        self.prototypes = nn.ModuleList(
            PrototypeSet(count, config.output_dim, dataset_size) for count in config.clusters
        )
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell the partner of every view from the queue, and its prototypes from others."""
        features = self.backbone(batch.views[0])  # (B, dim)
        query = unit(self.projector(features))  # (B, output_dim)
        key = self._keys(batch.views[1], progress)  # (B, output_dim)
        self.queue.hold(key, batch.rows)
        instance = info_nce(
            query,
            key,
            self.queue.rows,
            temperature=self.config.temperature,
            own=batch.rows if self.config.own_keys == "skip" else None,
            images=self.queue.images,
        )
        loss, chance = instance, math.log(1 + len(self.queue))
        logs = {"instance_loss": instance.detach()}
        if self._has_prototypes(progress):
            proto = self.prototype_loss(query, batch.rows, step=progress.step)
            loss, chance = instance + proto, chance + self._prototype_chance(len(batch))
            logs["prototype_loss"] = proto.detach()
            logs["largest_cluster"] = torch.stack([s.largest for s in self._sets()]).max()
        logs["chance_loss"] = torch.full_like(loss.detach(), chance)
        return StepOutput(loss, logs, features)

    def prototype_loss(self, query: Tensor, rows: Tensor, *, step: int) -> Tensor:
        """Compute ProtoNCE of unit vectors (B, output_dim) of the images `rows`, (B,)."""
        losses = [
            prototypes.loss(
                query,
                rows,
                step=step,
                negatives=self.config.negative_prototypes,
                in_batch=self.config.prototype_negatives == "batch",
            )
            for prototypes in self._sets()
        ]
        return torch.stack(losses).mean()

    def _prototype_chance(self, images: int) -> float:
        """ProtoNCE of guessing among the prototypes of this many images per process."""
        in_batch = self.config.prototype_negatives == "batch"
        batch, negatives = images * world_size(), self.config.negative_prototypes
        columns = [s.columns(batch, negatives, in_batch=in_batch) for s in self._sets()]
        return sum(math.log(n) for n in columns) / len(columns)

    def _sets(self) -> list[PrototypeSet]:
        return [s for s in self.prototypes if isinstance(s, PrototypeSet)]

    def _has_prototypes(self, progress: Progress) -> bool:
        return progress.epoch >= self.config.prototype_warmup * progress.epochs

    def _keys(self, view: Tensor, progress: Progress) -> Tensor:
        return teacher_keys(
            view,
            self.teacher_backbone,
            self.teacher_projector,
            shuffle=self.config.shuffle_batch_norm,
            seed=progress.step,
        )

    def after_update(self, progress: Progress) -> None:
        """Store the keys of the step and move the teacher."""
        self.queue.write_held()
        update_teacher(self.teacher_backbone, self.backbone, self.config.momentum)
        update_teacher(self.teacher_projector, self.projector, self.config.momentum)

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """After the warm-up, cluster what the teacher says of all images, several times over."""
        if not self._has_prototypes(progress):
            return
        parts = ((batch.rows, batch.views[0]) for batch in sweep())
        rows, keys = encode_sweep(parts, self.teacher_backbone, self.teacher_projector)
        for prototypes in self._sets():
            prototypes.fit(
                rows,
                unit(keys),
                epoch=progress.epoch,
                temperature=self.config.temperature,
                rounds=self.config.kmeans_rounds,
                restarts=self.config.kmeans_restarts,
                percentiles=self.config.percentiles,
            )
