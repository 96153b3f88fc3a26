"""SimCLR v2: SimCLR with a deeper head, of which fine-tuning keeps a layer, and a memory.

Source: Chen et al., 2020, arXiv:2006.10029.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right. The memory takes the teacher's projections of the second views only, and no image is told
from its own. Selective kernels, wider networks and distillation are not part of the method here:
choose the backbone, and fine-tune.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig, lowered_queue
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.gather import world_size
from scoutview.nn.heads import mlp
from scoutview.nn.losses.contrastive import nt_xent
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.nn.precision import unit
from scoutview.nn.queues import Queue
from scoutview.nn.teacher import frozen_copy, update_teacher
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.8, contrast=0.8, blur_probability=0.5))


class SimCLRV2Config(MethodConfig):
    """Defaults are the paper's, for 800 epochs."""

    views: TwoCrops = TwoCrops(scale=(0.08, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's two hidden layers; the paper's is that of the backbone."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections."""
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the loss."""
    queue_length: int = Field(default=65536, ge=0)
    """Projections in the memory; 0 for none, as in google-research/simclr."""
    own_keys: Literal["skip", "count"] = "skip"
    """Old projections of a view's own image are no negatives, or "count"."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Share of the memory's network that stays at each update."""
    optimizer: OptimizerConfig = LARSConfig(lr=1.6, lr_growth="root", weight_decay=1e-4)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=40)
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["SimCLRV2Config", list[str]]:
        """Keep the memory within the data: one epoch's images, whatever the batches leave out."""
        config, notes = lowered_queue(self, dataset_size, batch_size, may_be_empty=True)
        if config.queue_length == 0 and batch_size < 32:
            notes.append(
                f"A batch of {batch_size} gives {2 * batch_size - 2} negatives; SimCLR wants many;"
                " raise batch_size or queue_length."
            )
        return config, notes


class SimCLRV2(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: SimCLRV2Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(
            backbone.dim,
            config.hidden_dim,
            config.output_dim,
            layers=3,
            batch_norm=True,
            out_bias=False,
            out_batch_norm=True,
        )
        if config.queue_length:
            self.teacher_backbone = frozen_copy(self.backbone)
            self.teacher_projector = frozen_copy(self.projector)
            self.queue = Queue(config.queue_length, config.output_dim, random=True)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute NT-Xent between the two views of every image, with the memory as strangers."""
        features = encode_views(self.backbone, batch.views)  # (2B, dim)
        z0, z1 = self.projector(features).chunk(2)  # (B, output_dim) each
        memory = same = None
        if self.config.queue_length:
            memory = self.queue.rows
            if self.config.own_keys == "skip":
                same = batch.rows[:, None] == self.queue.images
            self.queue.hold(self._remembered(batch.views[1]), batch.rows)
        loss = nt_xent(z0, z1, temperature=self.config.temperature, negatives=memory, same=same)
        others = 2 * len(batch) * world_size() - 1 + self.config.queue_length
        logs = {"chance_loss": torch.full_like(loss.detach(), math.log(others))}
        return StepOutput(loss, logs, features[: len(batch)])

    @torch.no_grad()
    def _remembered(self, view: Tensor) -> Tensor:
        return unit(self.teacher_projector(self.teacher_backbone(view)))  # (B, output_dim)

    def after_update(self, progress: Progress) -> None:
        """Store the projections of the step and move the memory's network."""
        if not self.config.queue_length:
            return
        self.queue.write_held()
        update_teacher(self.teacher_backbone, self.backbone, self.config.momentum)
        update_teacher(self.teacher_projector, self.projector, self.config.momentum)

    def kept_head(self) -> nn.Sequential:
        """Give the first layer of the projector, from which the paper fine-tunes."""
        return self.projector[:3]
