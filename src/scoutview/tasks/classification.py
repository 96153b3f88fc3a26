"""Classification: one class per image, or any number of yes-no labels, some of them unknown.

Source: Irvin et al., 2019, arXiv:1901.07031, section 4.1 (missing and uncertain labels).
"""

from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from scoutview.base.config import Config
from scoutview.base.errors import DataError
from scoutview.contract import LabelSpec, Objective, Progress, StepOutput
from scoutview.data.batch import IGNORE, Batch
from scoutview.nn.backbones import Backbone
from scoutview.nn.heads import mlp
from scoutview.nn.losses.supervised import masked_binary_cross_entropy, masked_cross_entropy


class ClassificationConfig(Config):
    """A linear classifier on pooled features; the backbone is trained with it."""

    freeze_backbone: bool = False
    """Keep the backbone's weights and batch statistics; only the head is trained."""
    hidden_dim: int | None = Field(default=None, ge=1)
    """Width of a hidden layer of the head; null for a linear head."""
    batch_norm: bool = False
    """Batch norm before the hidden layer's ReLU."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of features that a training step hides from the head."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Targets move this far towards indifference."""


class Classification(Objective):
    """See the module docstring."""

    self_supervised: ClassVar[bool] = False

    def __init__(
        self, backbone: Backbone, config: ClassificationConfig, *, labels: LabelSpec
    ) -> None:
        super().__init__()
        self.backbone = backbone
        hidden, layers = (config.hidden_dim, 2) if config.hidden_dim else (0, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.head = mlp(
            backbone.dim, hidden, labels.outputs, layers=layers, batch_norm=config.batch_norm
        )
        self.exclusive = labels.kind == "multiclass"
        self.frozen = config.freeze_backbone
        self.label_smoothing = config.label_smoothing
        if self.frozen:
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> "Classification":
        """Switch training behaviour; a frozen backbone keeps its batch statistics."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute cross entropy over the targets that are known."""
        if batch.targets is None:
            raise DataError("Classification needs targets; select images that have labels.")
        features = self._features(batch)
        logits = self.head(self.dropout(features))  # (B, L)
        loss_of = masked_cross_entropy if self.exclusive else masked_binary_cross_entropy
        loss = loss_of(logits, batch.targets, ignore=IGNORE, smoothing=self.label_smoothing)
        return StepOutput(loss=loss, features=features.detach())

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Predict probabilities.

        Args:
            batch: Only the first view is used; the module must be in evaluation mode.

        Returns:
            Probability of each label or class, (B, L) float32.
        """
        logits = self.head(self._features(batch)).float()
        return cast(Tensor, logits.softmax(dim=1) if self.exclusive else logits.sigmoid())

    def _features(self, batch: Batch) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return cast(Tensor, self.backbone(batch.views[0]))  # (B, D)
