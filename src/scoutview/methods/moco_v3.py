"""MoCo v3: a prediction finds the teacher's key of the other view among the keys of the batch.

Source: Chen et al., 2021, arXiv:2104.02057.
Deviations: views without colour, without flips and without solarisation, because our images are
grey and have a left and a right. Transformers keep timm's learned position embedding; the published
code computes sines and cosines.
"""

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from scoutview.base.errors import ConfigError
from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone
from scoutview.nn.gather import world_size
from scoutview.nn.heads import mlp
from scoutview.nn.losses.contrastive import in_batch_info_nce
from scoutview.nn.optim_config import (
    AdamWConfig,
    CosineSchedule,
    LARSConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from scoutview.nn.teacher import cosine_momentum, frozen_copy, update_teacher
from scoutview.views.policy import Augment, Intensity, TwoCrops

_FIRST = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=1.0))
_SECOND = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.1))


class MoCoV3Config(MethodConfig):
    """Defaults are the paper's for transformers; `for_network` has those for ResNets."""

    views: TwoCrops = TwoCrops(scale=(0.08, 1.0), first=_FIRST, second=_SECOND)
    """Two crops of every image."""
    hidden_dim: int = Field(default=4096, ge=1)
    """Width of the hidden layers of projector and predictor."""
    output_dim: int = Field(default=256, ge=1)
    """Width of projections and predictions."""
    projector_layers: int = Field(default=3, ge=1)
    """Linear layers of the projector; the predictor has two."""
    predictor_batch_norm: bool = True
    """Batch norm behind the predictor; facebookresearch/moco-v3 has none there for ResNets."""
    temperature: float = Field(default=0.2, gt=0)
    """Softmax temperature of the loss."""
    momentum: float = Field(default=0.99, ge=0, le=1)
    """Share of the teacher that stays at the first update; rises to 1 along a cosine."""
    fixed_patch_projection: bool | None = None
    """Keep the patch projection as it was drawn, which makes transformers stable; null does so
    where there is one."""
    optimizer: OptimizerConfig = AdamWConfig(lr=1.5e-4, weight_decay=0.1)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=40)
    """Learning-rate schedule."""

    def for_network(self, kind: Literal["convolutional", "transformer"]) -> Self:
        """Take the published settings of ResNets for convolutional networks."""
        if kind == "transformer":
            return self
        return self.with_defaults(
            views=self.views.model_copy(update={"scale": (0.2, 1.0)}),
            projector_layers=2,
            temperature=1.0,
            optimizer=LARSConfig(lr=0.3, weight_decay=1e-6),
            schedule=CosineSchedule(warmup_epochs=10),
        )

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["MoCoV3Config", list[str]]:
        """Say when the batch gives few negatives."""
        if batch_size >= 32:
            return self, []
        return self, [
            f"A batch of {batch_size} gives {batch_size - 1} negatives; MoCo v3 has no queue and"
            " wants many; raise batch_size or use moco_v2."
        ]


class MoCoV3(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: MoCoV3Config) -> None:
        super().__init__()
        hidden, out = config.hidden_dim, config.output_dim
        norms: dict[str, Any] = {"batch_norm": True, "hidden_bias": False, "out_bias": False}
        self.backbone = backbone
        if config.fixed_patch_projection is not False:
            _fix_patch_projection(backbone, asked=bool(config.fixed_patch_projection))
        self.projector = mlp(
            backbone.dim, hidden, out, layers=config.projector_layers, out_batch_norm=True, **norms
        )
        self.predictor = mlp(out, hidden, out, out_batch_norm=config.predictor_batch_norm, **norms)
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.projector)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Find the teacher's key of each view with the prediction of the other view."""
        # Each view passes alone, because its batch statistics are its own in the paper.
        features = [self.backbone(view) for view in batch.views]  # (B, dim) each
        q0, q1 = (self.predictor(self.projector(f)) for f in features)  # (B, output_dim) each
        k0, k1 = (self._key(view) for view in batch.views)  # (B, output_dim) each
        temperature = self.config.temperature
        loss = in_batch_info_nce(q0, k1, temperature=temperature)
        loss = loss + in_batch_info_nce(q1, k0, temperature=temperature)
        chance = 4.0 * temperature * math.log(len(batch) * world_size())
        logs = {"chance_loss": torch.full_like(loss.detach(), chance)}
        return StepOutput(loss, logs, features[0])

    @torch.no_grad()
    def _key(self, view: Tensor) -> Tensor:
        projection: Tensor = self.teacher_projector(self.teacher_backbone(view))
        return projection

    def after_update(self, progress: Progress) -> None:
        """Move the teacher."""
        momentum = cosine_momentum(self.config.momentum, progress.fraction)
        update_teacher(self.teacher_backbone, self.backbone, momentum)
        update_teacher(self.teacher_projector, self.projector, momentum)


def _fix_patch_projection(backbone: Backbone, *, asked: bool) -> None:
    """Let no optimiser touch the patch projection, if there is one.

    Raises:
        ConfigError: The user asked for it and there is none.
    """
    projection = getattr(getattr(backbone, "model", None), "patch_embed", None)
    if projection is not None:
        projection.requires_grad_(False)
    elif asked:
        raise ConfigError(
            "fixed_patch_projection needs a transformer with patches; leave it out, or choose for"
            " example the backbone 'vit_small_patch16_224'."
        )
