"""PIRL: an image and its shuffled patches both resemble what a memory bank holds of the image.

Source: Misra and van der Maaten, 2019, arXiv:1912.01991.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right. One draw of negatives serves both branches and the whole batch, and no image of the batch
is among them.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig, lowered_negatives
from scoutview.methods.view_counts import check_view_count
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.banks import MemoryBank
from scoutview.nn.gather import all_gather
from scoutview.nn.heads import mlp
from scoutview.nn.jigsaw import JigsawHead
from scoutview.nn.losses.nce import (
    ConstantZ,
    bank_logits,
    bank_softmax,
    constant_nce,
    share_nce,
    share_nce_chance,
)
from scoutview.nn.optim_config import CosineSchedule, OptimizerConfig, ScheduleConfig, SGDConfig
from scoutview.nn.precision import unit
from scoutview.views.policy import Augment, CropsAndPatches, Intensity

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, jitter_probability=1.0))


class PIRLConfig(MethodConfig):
    """Defaults are the paper's."""

    views: CropsAndPatches = CropsAndPatches(scale=(0.08, 1.0), first=_AUGMENT)
    """One crop of every image, and nine patches of another crop in random order."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections and of the bank."""
    temperature: float = Field(default=0.07, gt=0)
    """Softmax temperature."""
    loss: Literal["nce", "softmax", "constant_nce"] = "nce"
    """The "nce" of softmax shares (paper), its term of the positive alone (PyContrast), or the
    NCE with a constant Z (VISSL)."""
    negatives: int = Field(default=32000, ge=1)
    """Rows drawn from the bank in each step."""
    jigsaw_weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the patches' branch, lambda; the image's has the rest."""
    jigsaw_memory: Literal["before", "updated"] = "before"
    """Whether the patches meet the bank as it was before the step (paper), or with this step's
    images in it already (VISSL)."""
    bank_momentum: float = Field(default=0.5, gt=0, le=1)
    """Weight of the new feature in its row of the bank; 1 overwrites."""
    epsilon: float = Field(default=0.0, ge=0)
    """Added to the denominators of "constant_nce"; VISSL has 1.19e-7."""
    shard_bank: bool = False
    """Spread the bank over the processes: less memory for each, more traffic."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.12, lr_per=1024, weight_decay=1e-4)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(final=0.001)
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["PIRLConfig", list[str]]:
        """Keep the negatives within the images outside the batch."""
        check_view_count(
            self.views.n_views,
            1 + self.views.grid**2,
            "one crop and its patches meet the bank",
            "set views.crops to 1",
        )
        config, notes = lowered_negatives(self, dataset_size, batch_size)
        if self.loss == "constant_nce":
            notes.append(
                "loss = constant_nce measures Z on a bank of random rows; the loss runs away on"
                " small data sets, where real features soon replace them; use nce there."
            )
        return config, notes


class PIRL(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: PIRLConfig, *, dataset_size: int) -> None:
        super().__init__()
        dim, patches = config.output_dim, config.views.n_views - config.views.crops
        self.backbone = backbone
        self.projector = mlp(backbone.dim, 0, dim, layers=1)
        self.jigsaw = JigsawHead(backbone.dim, 0, dim, patches=patches)
        self.bank = MemoryBank(dataset_size, dim, sharded=config.shard_bank)
        self.constant = ConstantZ()
        self.config = config
        self._new: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell each image's row of the bank from others, once from the image, once from patches."""
        crops = self.config.views.crops
        features = self.backbone(batch.views[0])  # (B, dim)
        image = unit(self.projector(features))  # (B, output_dim)
        patches = encode_views(self.backbone, batch.views[crops:])  # (P B, dim)
        jigsaw = unit(self.jigsaw(patches))  # (B, output_dim)
        count = self.config.negatives
        drawn = self.bank.sample(count, step=progress.step, avoid=batch.rows)  # (K,)
        of_image, of_jigsaw = self.losses(image, jigsaw, batch.rows, drawn)
        loss = torch.lerp(of_image, of_jigsaw, self.config.jigsaw_weight)
        logs = {"image_loss": of_image.detach(), "jigsaw_loss": of_jigsaw.detach()}
        chance = math.log(1 + count) if self.config.loss == "softmax" else share_nce_chance(count)
        logs["chance_loss"] = torch.full_like(loss.detach(), chance)
        return StepOutput(loss, logs, features)

    def losses(
        self,
        image: Tensor,
        jigsaw: Tensor,
        rows: Tensor,
        drawn: Tensor,
        drawn_for_jigsaw: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compare both branches with the bank and remember the images for it.

        Args:
            image: Unit vectors of the images, (B, output_dim).
            jigsaw: Unit vectors of the images' patches, (B, output_dim).
            rows: Rows of the images, (B,).
            drawn: Rows of the negatives, (K,) for all images, or (B, K).
            drawn_for_jigsaw: Other negatives for the patches; the same when not given.

        Returns:
            Loss of the images and loss of the patches, scalars.
        """
        own, negatives = self.bank.read(rows), self._negatives(drawn)
        of_image = self._branch(image, own, negatives)
        if drawn_for_jigsaw is not None:
            drawn = drawn_for_jigsaw
            negatives = self._negatives(drawn)
        if self.config.jigsaw_memory == "updated":
            own = self._updated(rows, own, rows, image.detach())
            negatives = self._updated(drawn, negatives, rows, image.detach())
        self._new.append((rows, image.detach()))
        return of_image, self._branch(jigsaw, own, negatives)

    def _negatives(self, drawn: Tensor) -> Tensor:
        return self.bank.read(drawn, same=drawn.ndim == 1)  # (K, output_dim) or (B, K, output_dim)

    def _branch(self, query: Tensor, own: Tensor, negatives: Tensor) -> Tensor:
        temperature, images = self.config.temperature, len(self.bank)
        if self.config.loss == "softmax":
            return bank_softmax(query, own, negatives, temperature=temperature)
        logits = bank_logits(query, own, negatives, temperature=temperature)  # (B, 1 + K)
        if self.config.loss == "nce":
            return share_nce(logits)
        log_z = self.constant(logits, images=images)  # measured on the image branch, it comes first
        return constant_nce(logits, log_z, images=images, epsilon=self.config.epsilon)

    def _updated(self, numbers: Tensor, found: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        """Give `found`, the rows `numbers` of the bank, as they are once the step is written."""
        rows, values = all_gather(rows), all_gather(values)
        old = self.bank.read(rows, same=True)  # (world B, output_dim)
        new = unit(torch.lerp(old, values.to(old), self.config.bank_momentum))
        same = numbers.unsqueeze(-1) == rows  # (*numbers, world B)
        last = same.shape[-1] - 1 - same.flip(-1).int().argmax(-1)  # as the bank
        return torch.where(same.any(-1, keepdim=True), new[last], found)

    def after_update(self, progress: Progress) -> None:
        """Move the rows of the step towards the images' features; patches are not remembered."""
        for rows, values in self._new:  # one entry per accumulated part
            self.bank.write(rows, values, momentum=self.config.bank_momentum)
        self._new.clear()
        self.constant.fix()
