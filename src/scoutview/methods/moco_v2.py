"""MoCo v2: a view finds its partner among the keys that a slow teacher left in a queue.

Source: Chen et al., 2020, arXiv:2003.04297; He et al., 2019, arXiv:1911.05722.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right. A query is not told from old keys of its own image, of which a queue as long as small data
holds many. The queue needs no length that is a multiple of the batch. The teacher moves after the
optimiser instead of before the next forward pass, which is the same.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig, lowered_queue
from scoutview.nn.backbones import Backbone
from scoutview.nn.heads import mlp
from scoutview.nn.losses.contrastive import info_nce
from scoutview.nn.optim_config import CosineSchedule, OptimizerConfig, ScheduleConfig, SGDConfig
from scoutview.nn.precision import unit
from scoutview.nn.queues import Queue
from scoutview.nn.teacher import frozen_copy, teacher_keys, update_teacher
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.5))


class MoCoV2Config(MethodConfig):
    """Defaults are the paper's."""

    views: TwoCrops = TwoCrops(scale=(0.2, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections."""
    projector_layers: int = Field(default=2, ge=1)
    """Linear layers of the projector; 1 is MoCo v1's."""
    temperature: float = Field(default=0.2, gt=0)
    """Softmax temperature of the loss; MoCo v1 has 0.07."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Share of the teacher that stays at each update."""
    queue_length: int = Field(default=65536, ge=1)
    """Keys in the queue."""
    own_keys: Literal["skip", "count"] = "skip"
    """Old keys of a query's own image are no negatives, or "count" (facebookresearch/moco)."""
    shuffle_batch_norm: bool = True
    """Shuffle images between processes for the keys; no effect with synchronised batch norm."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.03, weight_decay=1e-4, decay_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(per="epoch")
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["MoCoV2Config", list[str]]:
        """Keep the queue within the data: one epoch's keys, whatever the batches leave out."""
        return lowered_queue(self, dataset_size, batch_size)


class MoCoV2(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: MoCoV2Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(
            backbone.dim, config.hidden_dim, config.output_dim, layers=config.projector_layers
        )
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.projector)
        self.queue = Queue(config.queue_length, config.output_dim, random=True)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell the partner of every view from the keys of the queue."""
        features, query, key = self.encode(batch, progress)
        loss = info_nce(
            query,
            key,
            self.queue.rows,
            temperature=self.config.temperature,
            own=batch.rows if self.config.own_keys == "skip" else None,
            images=self.queue.images,
        )
        logs = {"chance_loss": torch.full_like(loss.detach(), math.log(1 + len(self.queue)))}
        return StepOutput(loss, logs, features)

    def encode(self, batch: Batch, progress: Progress) -> tuple[Tensor, Tensor, Tensor]:
        """Compute features (B, dim), queries and keys (B, output_dim); the keys will be queued."""
        features = self.backbone(batch.views[0])  # (B, dim)
        query = unit(self.projector(features))  # (B, output_dim)
        key = self._keys(batch.views[1], progress)  # (B, output_dim)
        self.queue.hold(key, batch.rows)
        return features, query, key

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
