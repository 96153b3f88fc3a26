"""Supervised: labels instead of views; the yardstick for the other methods.

Source: protocol of Yang et al., 2023, MedMNIST v2, arXiv:2110.14795 (defaults).
Deviations: none. Labels that are missing are left out of the loss; how uncertain ones count is
decided when targets are made.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.contract import LabelSpec, Objective, Progress, StepOutput
from scoutview.data.batch import IGNORE, Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone
from scoutview.nn.losses.supervised import masked_binary_cross_entropy, masked_cross_entropy
from scoutview.nn.optim_config import AdamConfig, OptimizerConfig, ScheduleConfig, StepSchedule
from scoutview.views.policy import EvalView, MultiCrop


class SupervisedConfig(MethodConfig):
    """Defaults are MedMNIST's: 100 epochs at batch 128, no augmentation."""

    views: EvalView | MultiCrop = EvalView()
    """The whole image, or random crops; each crop is its own sample."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread over all classes."""
    optimizer: OptimizerConfig = AdamConfig(lr=1e-3, lr_per=None)
    """Optimiser."""
    schedule: ScheduleConfig = StepSchedule(milestones=(50, 75), factor=0.1)
    """Learning-rate schedule."""


class Supervised(Objective):
    """See the module docstring."""

    self_supervised: ClassVar[bool] = False

    def __init__(
        self, backbone: Backbone, config: SupervisedConfig, *, labels: LabelSpec | None = None
    ) -> None:
        super().__init__()
        if labels is None:
            raise ConfigError(
                "supervised needs labels; index the cohort with a label table or choose a"
                " self-supervised method."
            )
        self.backbone = backbone
        self.labels = labels
        self.classifier = nn.Linear(backbone.dim, labels.outputs)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the cross entropy of the known labels over all views."""
        if batch.targets is None:
            raise ConfigError("supervised needs a batch with targets; give the loader labels.")
        features = [self.backbone(view) for view in batch.views]  # (B, dim) each
        losses = [self._loss(self.classifier(f), batch.targets) for f in features]
        return StepOutput(torch.stack(losses).mean(), {}, features[0])

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        if self.labels.kind == "multiclass":
            return masked_cross_entropy(logits, targets, ignore=IGNORE, smoothing=smoothing)
        return masked_binary_cross_entropy(logits, targets, ignore=IGNORE, smoothing=smoothing)
