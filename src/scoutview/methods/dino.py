"""DINO: the student's codes of all crops follow the teacher's codes of the large ones.

Source: Caron et al., 2021, arXiv:2104.14294.
Deviations: views without colour, without flips and without solarisation, because our images are
grey and have a left and a right. The last layer stays frozen for a number of epochs and the
teacher's temperature rises with every step, so that small data keep the proportion. Gradients are
clipped by the run's `clip_norm`, not per parameter.
"""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from scoutview.base.errors import ConfigError
from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.gather import all_sum, world_size
from scoutview.nn.heads import UnitPrototypes, mlp
from scoutview.nn.losses.swapped import swapped_prediction
from scoutview.nn.optim_config import (
    AdamWConfig,
    CosineSchedule,
    OptimizerConfig,
    ScheduleConfig,
    SGDConfig,
)
from scoutview.nn.teacher import cosine_momentum, frozen_copy, update_teacher
from scoutview.views.policy import Augment, Intensity, MultiCrop


def _augment(blur: float) -> Augment:
    return Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=blur))


_GLOBAL_AND_LOCAL = (_augment(1.0), _augment(0.1), _augment(0.5))
"""Of the two large crops, and of all small ones."""


class DINOConfig(MethodConfig):
    """Defaults are the paper's for transformers; `for_network` has those for ResNets."""

    views: MultiCrop = MultiCrop(
        counts=(2, 10), scales=((0.25, 1.0), (0.05, 0.25)), augment=_GLOBAL_AND_LOCAL
    )
    """A few large crops, which the teacher sees as well, and many small ones."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's two hidden layers."""
    output_dim: int = Field(default=256, ge=1)
    """Width of the projections and prototypes."""
    prototypes: int = Field(default=65536, ge=8)
    """Entries of a code, K."""
    student_temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the student."""
    teacher_temperature: float = Field(default=0.07, gt=0)
    """Softmax temperature of the teacher after its warm-up; lower is sharper."""
    teacher_temperature_start: float = Field(default=0.04, gt=0)
    """Softmax temperature of the teacher at the first step."""
    teacher_warmup_epochs: float = Field(default=30.0, ge=0)
    """Epochs in which the teacher's temperature rises."""
    centre_momentum: float = Field(default=0.9, ge=0, le=1)
    """Share of the centre that stays at each update; 1 never centres, and collapses."""
    momentum: float = Field(default=0.996, ge=0, le=1)
    """Share of the teacher that stays at the first update; rises to 1 along a cosine."""
    frozen_epochs: float = Field(default=1.0, ge=0)
    """Epochs at the start in which the prototypes do not change."""
    loss_reduction: Literal["sum", "mean"] = "sum"
    """The "sum" over the pairs of views (eq. 3), or their "mean" (facebookresearch/dino)."""
    optimizer: OptimizerConfig = AdamWConfig(lr=5e-4, weight_decay=0.04, final_weight_decay=0.4)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=10, final=0.002)
    """Learning-rate schedule."""

    def for_network(self, kind: Literal["convolutional", "transformer"]) -> Self:
        """Take the published settings of ResNets for convolutional networks."""
        if kind == "transformer":
            return self
        scales = ((0.14, 1.0), (0.05, 0.14))
        return self.with_defaults(
            views=self.views.model_copy(update={"scales": scales}),
            optimizer=SGDConfig(lr=0.03, weight_decay=1e-4),
            loss_reduction="mean",  # the rate is that of the published code's loss
        )

    def first_epochs(self) -> dict[str, tuple[float, str]]:
        """Leave most of a short training to the prototypes and to the sharpened teacher."""
        return {
            "frozen_epochs": (0.1, "the prototypes never change"),
            "teacher_warmup_epochs": (0.3, "teacher_temperature is never reached"),
        }

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["DINOConfig", list[str]]:
        """Keep codes and images in proportion, and name what collapses."""
        config, notes = self, []
        if self.prototypes > dataset_size and "prototypes" not in self.model_fields_set:
            limit = max(8, dataset_size)
            config = self.model_copy(update={"prototypes": limit})
            notes.append(
                f"prototypes lowered from {self.prototypes} to {limit}, because there are"
                f" {dataset_size} training images."
            )
        elif self.prototypes > dataset_size:
            notes.append(
                f"{self.prototypes} prototypes are more than the {dataset_size} training images, so"
                " most will never stand for one; lower prototypes."
            )
        if self.views.n_views < 2:
            raise ConfigError(
                f"views must hold at least 2 crops, got {self.views.n_views}: a crop's code is"
                " predicted from the others; raise views.counts."
            )
        if self.centre_momentum == 1.0:
            notes.append(
                "centre_momentum 1 leaves the teacher without centring: one prototype will take"
                " all images; lower it to 0.9."
            )
        return config, notes


class DINO(Objective):
    """See the module docstring."""

    centre: Tensor

    def __init__(self, backbone: Backbone, config: DINOConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(
            backbone.dim, config.hidden_dim, config.output_dim, layers=3, gelu=True
        )
        self.prototypes = UnitPrototypes(config.output_dim, config.prototypes)
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.projector)
        self.teacher_prototypes = frozen_copy(self.prototypes)
        self.register_buffer("centre", torch.zeros(config.prototypes))  # (K,)
        self.config = config
        self._new_means: list[Tensor] = []

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Predict the teacher's codes of the large crops from all other crops."""
        config = self.config
        features = encode_views(self.backbone, batch.views)  # (V B, dim)
        frozen = progress.within(config.frozen_epochs)
        scores = self.prototypes(self.projector(features), frozen=frozen)  # (V B, K)
        large = range(config.views.counts[0])
        codes = self._codes(batch.views[: len(large)], progress)  # (G, B, K)
        loss = swapped_prediction(
            scores.view(len(batch.views), len(batch), -1),
            codes,
            large,
            temperature=config.student_temperature,
            reduction=config.loss_reduction,
        )
        pairs = len(large) * (len(batch.views) - 1) if config.loss_reduction == "sum" else 1
        logs = {
            "chance_loss": torch.full_like(loss.detach(), pairs * math.log(config.prototypes)),
            "loss_floor": pairs * _entropy(codes).mean(),  # what is above it can be learnt
            "codes_used": _entropy(codes.mean(dim=(0, 1))).exp(),
        }
        return StepOutput(loss, logs, features[: len(batch)])

    @torch.no_grad()
    def _codes(self, views: list[Tensor], progress: Progress) -> Tensor:
        """Centre and sharpen the teacher's scores: (G, B, K), rows sum to 1."""
        features = encode_views(self.teacher_backbone, views)  # (G B, dim)
        scores = self.teacher_prototypes(self.teacher_projector(features))  # (G B, K)
        self._new_means.append(all_sum(scores.mean(dim=0)) / world_size())
        codes = F.softmax((scores - self.centre) / self._temperature(progress), dim=1)
        return codes.view(len(views), -1, codes.shape[1])

    def _temperature(self, progress: Progress) -> float:
        config = self.config
        warmup = config.teacher_warmup_epochs * progress.steps_per_epoch
        share = min(1.0, progress.step / warmup) if warmup > 0 else 1.0
        start = config.teacher_temperature_start
        return start + share * (config.teacher_temperature - start)

    @torch.no_grad()
    def after_update(self, progress: Progress) -> None:
        """Move the centre and the teacher."""
        mean = torch.stack(self._new_means).mean(dim=0)  # over the accumulated parts
        self._new_means.clear()
        self.centre.lerp_(mean.to(self.centre.dtype), 1.0 - self.config.centre_momentum)
        if progress.within(self.config.frozen_epochs):  # no gradient keeps no weight decay away
            self.prototypes.load_state_dict(self.teacher_prototypes.state_dict())
        momentum = cosine_momentum(self.config.momentum, progress.fraction)
        update_teacher(self.teacher_backbone, self.backbone, momentum)
        update_teacher(self.teacher_projector, self.projector, momentum)
        update_teacher(self.teacher_prototypes, self.prototypes, momentum)


def _entropy(codes: Tensor) -> Tensor:
    """Entropy in nats along the last axis, (..., K) to (...)."""
    return -(codes * (codes + 1e-12).log()).sum(dim=-1)
