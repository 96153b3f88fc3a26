"""PixPro: a place in one view predicts the same place in the other, seen by a slow teacher.

Source: Xie et al., 2021, arXiv:2011.10043.
Deviations: views without colour, without flips and without solarisation, because our images are
grey and have a left and a right. Places are compared in pixels of the stored image, so turned views
work as well.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone, Dense
from scoutview.nn.features import feature_std
from scoutview.nn.heads import mlp
from scoutview.nn.losses.places import Span, place_consistency, same_place, view_frame
from scoutview.nn.losses.regression import symmetric_regression
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.nn.precision import unit
from scoutview.nn.propagation import PixelPropagation
from scoutview.nn.teacher import cosine_momentum, frozen_copy, update_teacher
from scoutview.views.policy import Augment, Intensity, TwoCrops

_FIRST = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=1.0))
_SECOND = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.1))


class PixProConfig(MethodConfig):
    """Defaults are the paper's."""

    views: TwoCrops = TwoCrops(scale=(0.08, 1.0), first=_FIRST, second=_SECOND)
    """Two crops of every image, which should overlap."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=256, ge=1)
    """Width of a place's projection."""
    threshold: float = Field(default=0.7, gt=0)
    """Largest distance of two places that count as the same, in diagonals of a cell."""
    exponent: float = Field(default=2.0, gt=0)
    """Sharpness of the similarity with which places are propagated, gamma."""
    clamp: float = Field(default=0.0, ge=0, lt=1)
    """Smaller similarities count as this one."""
    transform_layers: int = Field(default=1, ge=0, le=2)
    """Linear layers of the propagation."""
    momentum: float = Field(default=0.99, ge=0, le=1)
    """Share of the teacher that stays at the first update."""
    momentum_schedule: Literal["cosine", "constant"] = "cosine"
    """The momentum rises to 1 along a "cosine", or stays "constant"."""
    instance_weight: float = Field(default=0.0, ge=0)
    """Weight of BYOL's loss on pooled features beside the dense one; the paper's is 1 where it
    combines them, 0 leaves it out."""
    normalise_values: bool = False
    """Propagate unit vectors (zdaxie/PixPro)."""
    doubled_loss: bool = False
    """Count each direction twice (zdaxie/PixPro)."""
    span: Span = "edges"
    """A crop reaches to the outer "edges" of its pixels, or to their "centres" (zdaxie/PixPro)."""
    optimizer: OptimizerConfig = LARSConfig(lr=1.0, weight_decay=1e-5)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=5)
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["PixProConfig", list[str]]:
        """Say when views will seldom overlap, or the batch is too small for batch norm."""
        notes = []
        if batch_size < 32:
            notes.append(
                f"A batch of {batch_size} gives poor batch statistics, without which PixPro tends"
                " to collapse; raise batch_size or use moco_v2."
            )
        if self.views.scale[1] < 0.25:
            notes.append(
                f"Crops of at most {self.views.scale[1]:g} of the image seldom overlap, and images"
                " without overlap teach PixPro nothing; raise views.scale."
            )
        return self, notes


class PixPro(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: PixProConfig) -> None:
        super().__init__()
        side, stride = max(config.views.specs(backbone.ndim)[0].size), backbone.strides[-1]
        if side <= stride:
            raise ConfigError(
                f"pixpro compares places, but views of {side} pixels give a 1 x 1 map in a network"
                f" of stride {stride}; use views of at least {2 * stride} pixels, or"
                " backbone.small_stem."
            )
        hidden, out, width = config.hidden_dim, config.output_dim, backbone.widths[-1]
        self.backbone = backbone
        self.place_projector = mlp(width, hidden, out, batch_norm=True)
        self.propagation = PixelPropagation(
            out,
            exponent=config.exponent,
            layers=config.transform_layers,
            normalise_values=config.normalise_values,
            clamp=config.clamp,
        )
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.place_projector)
        if config.instance_weight:
            self.instance_projector = mlp(backbone.dim, hidden, out, batch_norm=True)
            self.instance_predictor = mlp(out, hidden, out, batch_norm=True)
            self.teacher_instance_projector = frozen_copy(self.instance_projector)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Predict the teacher's places of each view from the other view."""
        config = self.config
        # Each view passes alone, because its batch statistics are its own in the paper.
        seen = [self.backbone.dense(view) for view in batch.views]
        projected = [self.place_projector(s.cells.flatten(0, 1)) for s in seen]  # (B P, out) each
        p0, p1 = (
            _unit(self.propagation(rows.view(*s.cells.shape[:2], -1)))
            for rows, s in zip(projected, seen, strict=True)
        )  # (B, P, output_dim) each
        with torch.no_grad():
            taught = [self.teacher_backbone.dense(view) for view in batch.views]
            t0, t1 = (_unit(_on_cells(self.teacher_projector, t.cells)) for t in taught)
        frame0, frame1 = (
            view_frame(affine, view.shape[2:], span=config.span)
            for affine, view in zip(batch.geometry, batch.views, strict=True)
        )
        same = same_place(
            frame0, frame1, seen[0].grid, seen[1].grid, threshold=config.threshold
        )  # (B, P, P)
        loss = place_consistency(p0, t1, same) + place_consistency(p1, t0, same.transpose(1, 2))
        loss = 2.0 * loss if config.doubled_loss else loss
        if config.instance_weight:
            loss = loss + config.instance_weight * self._instance_loss(seen, taught)
        # A gradient of zero, because pooling may have weights and data-parallel training waits.
        loss = loss + 0.0 * seen[0].pooled.float().sum()
        logs = _logs(same, projected[0])
        return StepOutput(loss, logs, seen[0].pooled)

    def _instance_loss(self, seen: list[Dense], taught: list[Dense]) -> Tensor:
        p0, p1 = (self.instance_predictor(self.instance_projector(s.pooled)) for s in seen)
        with torch.no_grad():
            t0, t1 = (self.teacher_instance_projector(t.pooled) for t in taught)
        return symmetric_regression(p0, p1, t0, t1)

    def after_update(self, progress: Progress) -> None:
        """Move the teacher."""
        momentum = self.config.momentum
        if self.config.momentum_schedule == "cosine":
            momentum = cosine_momentum(momentum, progress.fraction)
        update_teacher(self.teacher_backbone, self.backbone, momentum)
        update_teacher(self.teacher_projector, self.place_projector, momentum)
        if self.config.instance_weight:
            update_teacher(self.teacher_instance_projector, self.instance_projector, momentum)


def _on_cells(head: nn.Module, cells: Tensor) -> Tensor:
    """Apply a head to every cell, (B, P, D)."""
    rows: Tensor = head(cells.flatten(0, 1))
    return rows.view(*cells.shape[:2], -1)


def _unit(cells: Tensor) -> Tensor:
    """Bring every cell to length 1, (B, P, D)."""
    return unit(cells.flatten(0, 1)).view_as(cells)


@torch.no_grad()
def _logs(same: Tensor, projected: Tensor) -> dict[str, Tensor]:
    """How many places meet, (B, P, P), and how far projections spread, (B P, D)."""
    pairs = same.sum(dim=(1, 2)).float()  # (B,)
    return {
        "overlapping_images": (pairs > 0).float().mean(),
        "pairs": pairs.mean(),
        "projection_std": feature_std(projected),  # the collapse monitor watches it
    }
