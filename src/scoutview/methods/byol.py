"""BYOL: the student predicts what its own moving average says about the other view.

Source: Grill et al., 2020, arXiv:2006.07733.
Deviations: views without colour, without flips and without solarisation, because our images are
grey and have a left and a right.
"""

import torch
from pydantic import Field
from torch import Tensor

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone
from scoutview.nn.heads import mlp
from scoutview.nn.losses.regression import symmetric_regression
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.nn.teacher import cosine_momentum, frozen_copy, update_teacher
from scoutview.views.policy import Augment, Intensity, TwoCrops

_FIRST = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=1.0))
_SECOND = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.1))


class BYOLConfig(MethodConfig):
    """Defaults are the paper's, for 1,000 epochs."""

    views: TwoCrops = TwoCrops(scale=(0.08, 1.0), first=_FIRST, second=_SECOND)
    """Two crops of every image."""
    hidden_dim: int = Field(default=4096, ge=1)
    """Width of the hidden layers of projector and predictor."""
    output_dim: int = Field(default=256, ge=1)
    """Width of projections and predictions."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of the teacher that stays at the first update; rises to 1 along a cosine."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.2, weight_decay=1.5e-6)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=10)
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["BYOLConfig", list[str]]:
        """Say when the batch is too small for batch norm."""
        if batch_size >= 32:
            return self, []
        return self, [
            f"A batch of {batch_size} gives poor batch statistics, without which BYOL tends to"
            " collapse; raise batch_size or use moco_v2."
        ]


class BYOL(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: BYOLConfig) -> None:
        super().__init__()
        hidden, out = config.hidden_dim, config.output_dim
        self.backbone = backbone
        self.projector = mlp(backbone.dim, hidden, out, batch_norm=True)
        self.predictor = mlp(out, hidden, out, batch_norm=True)
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.projector)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Predict the teacher's projection of each view from the other view."""
        features, predictions, targets = self.encode(batch)
        return StepOutput(symmetric_regression(*predictions, *targets), {}, features[0])

    def encode(self, batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Compute features (B, dim), predictions and targets (B, output_dim) of both views."""
        # Each view passes alone, because its batch statistics are its own in the paper.
        features = [self.backbone(view) for view in batch.views]
        predictions = [self.predictor(self.projector(f)) for f in features]
        return features, predictions, [self._target(view) for view in batch.views]

    @torch.no_grad()
    def _target(self, view: Tensor) -> Tensor:
        projection: Tensor = self.teacher_projector(self.teacher_backbone(view))
        return projection

    def after_update(self, progress: Progress) -> None:
        """Move the teacher."""
        momentum = cosine_momentum(self.config.momentum, progress.fraction)
        update_teacher(self.teacher_backbone, self.backbone, momentum)
        update_teacher(self.teacher_projector, self.projector, momentum)
