"""InsDis (NPID): every image is its own class, and a memory bank holds the class weights.

Source: Wu et al., 2018, arXiv:1805.01978.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right. One draw of negatives serves the whole batch, and no image of the batch is among them; the
paper draws for each image.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from scoutview.base.errors import ConfigError
from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig, lowered_negatives
from scoutview.methods.view_counts import check_view_count
from scoutview.nn.backbones import Backbone
from scoutview.nn.banks import MemoryBank
from scoutview.nn.heads import mlp
from scoutview.nn.losses.nce import (
    ConstantZ,
    bank_logits,
    bank_softmax,
    constant_nce,
    full_softmax,
    share_nce_chance,
)
from scoutview.nn.optim_config import OptimizerConfig, ScheduleConfig, SGDConfig, StepSchedule
from scoutview.nn.precision import unit
from scoutview.views.policy import Augment, Intensity, MultiCrop

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, jitter_probability=1.0))


class InsDisConfig(MethodConfig):
    """Defaults are the paper's."""

    views: MultiCrop = MultiCrop(
        counts=(1,), sizes=(224,), scales=((0.2, 1.0),), augment=(_AUGMENT,)
    )
    """One crop of every image; its partner is what the bank remembers."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections and of the bank."""
    temperature: float = Field(default=0.07, gt=0)
    """Softmax temperature."""
    loss: Literal["nce", "softmax_bank", "full_softmax"] = "nce"
    """The "nce" with constant Z (paper), cross entropy over the drawn negatives (PyContrast), or
    over the whole bank (lemniscate with nce-k = 0)."""
    negatives: int = Field(default=4096, ge=1)
    """Rows drawn from the bank in each step; "full_softmax" takes all and draws none."""
    proximal_weight: float = Field(default=10.0, ge=0)
    """Weight of the squared distance to the old feature, "nce" only; 0 is the published code's.
    The paper compares 0, 10, 30 and 50."""
    bank_momentum: float = Field(default=1.0, gt=0, le=1)
    """Weight of the new feature in its row of the bank: 1 overwrites (paper), 0.5 is the moving
    average of the published code."""
    epsilon: float = Field(default=0.0, ge=0)
    """Added to the denominators of "nce"; the published code has 1e-7."""
    z_epochs: float = Field(default=1.0, ge=0)
    """Epochs at the start in which every step measures Z anew, while random rows are still in the
    bank; then it is fixed. 0 fixes it on the first batch (published code)."""
    shard_bank: bool = False
    """Spread the bank over the processes: less memory for each, more traffic."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.03, weight_decay=1e-4, decay_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = StepSchedule(milestones=(120, 160), factor=0.1)
    """Learning-rate schedule."""

    def first_epochs(self) -> dict[str, tuple[float, str]]:
        """Leave half of a short training to a fixed Z."""
        return {"z_epochs": (0.5, "Z is never fixed")} if self.loss == "nce" else {}

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["InsDisConfig", list[str]]:
        """Keep the negatives within the images outside the batch."""
        check_view_count(
            self.views.n_views,
            1,
            "the bank is the partner of the one crop",
            "set views.counts to [1]",
        )
        notes = []
        if self.loss == "nce" and self.z_epochs == 0:
            notes.append(
                "z_epochs = 0 measures Z on a bank of random rows; the loss runs away on small data"
                " sets, where real features soon replace them; leave z_epochs at 1 there."
            )
        if self.loss == "full_softmax":
            if self.shard_bank:
                raise ConfigError(
                    "loss = full_softmax reads the whole bank in every process, so it cannot be"
                    " sharded; set shard_bank to false or choose another loss."
                )
            return self, []
        config, more = lowered_negatives(self, dataset_size, batch_size)
        return config, notes + more


class InsDis(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: InsDisConfig, *, dataset_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.dim, 0, config.output_dim, layers=1)
        self.bank = MemoryBank(dataset_size, config.output_dim, sharded=config.shard_bank)
        self.constant = ConstantZ()
        self.config = config
        self._new: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell each image's row of the bank from the rows of others."""
        features = self.backbone(batch.views[0])  # (B, dim)
        query = unit(self.projector(features))  # (B, output_dim)
        drawn = None
        if self.config.loss != "full_softmax":
            count = self.config.negatives
            drawn = self.bank.sample(count, step=progress.step, avoid=batch.rows)  # (K,)
        loss, logs = self.loss(
            query, batch.rows, drawn, measure=progress.within(self.config.z_epochs)
        )
        return StepOutput(loss, logs, features)

    def loss(
        self, query: Tensor, rows: Tensor, drawn: Tensor | None, *, measure: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare features with the bank and remember them for it.

        Args:
            query: Unit vectors, (B, output_dim).
            rows: Rows of the images, (B,).
            drawn: Rows of the negatives, (K,) or (B, K); None with "full_softmax".
            measure: Measure Z anew.

        Returns:
            Loss, scalar, and logs.
        """
        config = self.config
        self._new.append((rows, query.detach()))
        if drawn is None:
            loss = full_softmax(query, self.bank.rows, rows, temperature=config.temperature)
            return loss, {"chance_loss": torch.full_like(loss.detach(), math.log(len(self.bank)))}
        old = self.bank.read(rows)  # (B, output_dim)
        negatives = self.bank.read(drawn, same=drawn.ndim == 1)  # (K, output_dim)
        if config.loss == "softmax_bank":
            loss = bank_softmax(query, old, negatives, temperature=config.temperature)
            chance = math.log(1 + drawn.shape[-1])
            return loss, {"chance_loss": torch.full_like(loss.detach(), chance)}
        logits = bank_logits(query, old, negatives, temperature=config.temperature)  # (B, 1 + K)
        log_z = self.constant(logits, images=len(self.bank), anew=measure)
        nce = constant_nce(logits, log_z, images=len(self.bank), epsilon=config.epsilon)
        proximal = (query - old).square().sum(dim=1).mean()
        chance = share_nce_chance(drawn.shape[-1])
        logs = {"nce": nce.detach(), "proximal": proximal.detach(), "log_z": log_z}
        logs["chance_loss"] = torch.full_like(nce.detach(), chance)
        return nce + config.proximal_weight * proximal, logs

    def after_update(self, progress: Progress) -> None:
        """Write the features of the step to the bank and keep the Z that was measured."""
        for rows, values in self._new:  # one entry per accumulated part
            self.bank.write(rows, values, momentum=self.config.bank_momentum)
        self._new.clear()
        self.constant.fix()
