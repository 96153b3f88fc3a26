"""InfoMin: MoCo on strongly changed views, and shuffled patches that look for the same key.

Source: Tian et al., 2020, arXiv:2005.10243; HobbitLong/PyContrast.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right; of RandAugment only rotation, which is what does not alter a finding and the crop, the
brightness and the contrast do not have already. Neither branch is told from old keys of its own
image, of which a queue as long as small data holds many. The teacher moves after the optimiser
instead of before the next forward pass, which is the same.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig, lowered_queue
from scoutview.methods.view_counts import check_view_count
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.heads import mlp
from scoutview.nn.jigsaw import JigsawHead
from scoutview.nn.losses.contrastive import info_nce
from scoutview.nn.optim_config import CosineSchedule, OptimizerConfig, ScheduleConfig, SGDConfig
from scoutview.nn.precision import unit
from scoutview.nn.queues import Queue
from scoutview.nn.teacher import frozen_copy, teacher_keys, update_teacher
from scoutview.views.policy import Augment, CropsAndPatches, Intensity

# RandAugment takes 2 of 15 changes: a turn by at most 30 degrees comes with 2 / 15
_AUGMENT = Augment(
    rotation=30.0,
    rotation_probability=2 / 15,
    intensity=Intensity(brightness=0.8, contrast=0.8, blur_probability=0.5),
)


class InfoMinConfig(MethodConfig):
    """Defaults are the paper's."""

    views: CropsAndPatches = CropsAndPatches(
        crops=2, scale=(0.2, 1.0), first=_AUGMENT, patch=Augment()
    )
    """Two crops of every image, and nine patches of another crop in random order."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the hidden layers of the projector and of the patches' projection."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections."""
    temperature: float = Field(default=0.15, gt=0)
    """Softmax temperature of the loss."""
    jigsaw_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the patches' branch, beta; the crop's has the rest."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Share of the teacher that stays at each update."""
    queue_length: int = Field(default=65536, ge=1)
    """Keys in the queue."""
    own_keys: Literal["skip", "count"] = "skip"
    """Old keys of a query's own image are no negatives, or "count" (HobbitLong/PyContrast)."""
    shuffle_batch_norm: bool = True
    """Shuffle images between processes for the keys; no effect with synchronised batch norm."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.03, weight_decay=1e-4, decay_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(per="epoch")
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["InfoMinConfig", list[str]]:
        """Keep the queue within the data: one epoch's keys, whatever the batches leave out."""
        check_view_count(
            self.views.n_views,
            2 + self.views.grid**2,
            "one crop and the patches look for the key of another crop",
            "set views.crops to 2",
        )
        return lowered_queue(self, dataset_size, batch_size)


class InfoMin(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: InfoMinConfig) -> None:
        super().__init__()
        hidden, dim = config.hidden_dim, config.output_dim
        patches = config.views.n_views - config.views.crops
        self.backbone = backbone
        self.projector = mlp(backbone.dim, hidden, dim)
        self.jigsaw = JigsawHead(backbone.dim, hidden, dim, patches=patches, layers=2)
        self.teacher_backbone = frozen_copy(self.backbone)
        self.teacher_projector = frozen_copy(self.projector)
        self.queue = Queue(config.queue_length, dim, random=True)
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Find the key of the second crop from the first crop, and from the patches."""
        features = self.backbone(batch.views[0])  # (B, dim)
        query = unit(self.projector(features))  # (B, output_dim)
        patches = encode_views(self.backbone, batch.views[2:])  # (P B, dim)
        jigsaw = unit(self.jigsaw(patches))  # (B, output_dim)
        key = self._keys(batch.views[1], progress)  # (B, output_dim)
        self.queue.hold(key, batch.rows)
        own = batch.rows if self.config.own_keys == "skip" else None
        of_crop, of_jigsaw = self.losses(query, jigsaw, key, own=own)
        loss = torch.lerp(of_crop, of_jigsaw, self.config.jigsaw_weight)
        logs = {
            "crop_loss": of_crop.detach(),
            "jigsaw_loss": of_jigsaw.detach(),
            "chance_loss": torch.full_like(loss.detach(), math.log(1 + len(self.queue))),
        }
        return StepOutput(loss, logs, features)

    def losses(
        self, query: Tensor, jigsaw: Tensor, key: Tensor, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare both branches with the same key and the same queue.

        Args:
            query: Unit vectors of the first crops, (B, output_dim).
            jigsaw: Unit vectors of the patches, (B, output_dim).
            key: Unit vectors of the second crops from the teacher, (B, output_dim).
            own: Rows of the images, (B,), whose old keys do not count; None counts all.

        Returns:
            Loss of the crops and loss of the patches, scalars.
        """
        past = self.queue
        of_crop, of_jigsaw = (
            info_nce(
                asking,
                key,
                past.rows,
                temperature=self.config.temperature,
                own=own,
                images=past.images,
            )
            for asking in (query, jigsaw)
        )
        return of_crop, of_jigsaw

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
