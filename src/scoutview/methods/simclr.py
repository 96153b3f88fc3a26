"""SimCLR: two views of an image attract, all other images of the batch repel.

Source: Chen et al., 2020, arXiv:2002.05709.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right. Batch norm in the projector's hidden layer, as in google-research/simclr; the paper is
silent about it.
"""

import math
from typing import Literal

import torch
from pydantic import Field

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.gather import world_size
from scoutview.nn.heads import mlp
from scoutview.nn.losses.contrastive import nt_xent
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.8, contrast=0.8, blur_probability=0.5))


class SimCLRConfig(MethodConfig):
    """Defaults are the paper's."""

    views: TwoCrops = TwoCrops(scale=(0.08, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections."""
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the loss."""
    loss_reduction: Literal["mean", "sum_of_views"] = "mean"
    """The "mean" over the 2B anchors (paper), or twice that (google-research/simclr)."""
    normalise: bool = True
    """Compare unit vectors (paper), or projections as they are (google-research/simclr)."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.3, weight_decay=1e-6)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=10)
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["SimCLRConfig", list[str]]:
        """Say when the batch gives few negatives."""
        if batch_size >= 32:
            return self, []
        return self, [
            f"A batch of {batch_size} gives {2 * batch_size - 2} negatives; SimCLR wants many;"
            " raise batch_size or use moco_v2, byol or barlow_twins."
        ]


class SimCLR(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: SimCLRConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.hidden_dim, config.output_dim, batch_norm=True)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute NT-Xent between the two views of every image."""
        features = encode_views(self.backbone, batch.views)  # (2B, dim)
        z0, z1 = self.projector(features).chunk(2)  # (B, output_dim) each
        loss = nt_xent(
            z0,
            z1,
            temperature=self.config.temperature,
            reduction=self.config.loss_reduction,
            normalise=self.config.normalise,
        )
        chance = math.log(2 * len(batch) * world_size() - 1)
        if self.config.loss_reduction == "sum_of_views":
            chance *= 2.0
        logs = {"chance_loss": torch.full_like(loss.detach(), chance)}
        return StepOutput(loss, logs, features[: len(batch)])
