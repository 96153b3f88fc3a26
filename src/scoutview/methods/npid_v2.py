"""NPIDv2: instance discrimination against a memory bank, with an MLP head and blurred views.

Source: Xie et al., 2022, arXiv:2008.11702, section 5.1; Wu et al., 2018, arXiv:1805.01978.
Deviations: views without flips and without the changes of saturation and hue, because our images
are grey and have a left and a right: crop and blur are left. One draw of negatives serves the whole
batch, and no image of the batch is among them.
"""

import math

import torch
from pydantic import Field
from torch import Tensor

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig, lowered_negatives
from scoutview.methods.view_counts import check_view_count
from scoutview.nn.backbones import Backbone
from scoutview.nn.banks import MemoryBank
from scoutview.nn.heads import mlp
from scoutview.nn.losses.contrastive import info_nce
from scoutview.nn.optim_config import CosineSchedule, OptimizerConfig, ScheduleConfig, SGDConfig
from scoutview.nn.precision import unit
from scoutview.views.policy import Augment, Intensity, MultiCrop

_AUGMENT = Augment(intensity=Intensity(blur_probability=0.5))


class NPIDv2Config(MethodConfig):
    """Defaults are the paper's."""

    views: MultiCrop = MultiCrop(
        counts=(1,), sizes=(224,), scales=((0.2, 1.0),), augment=(_AUGMENT,)
    )
    """One crop of every image; its partner is what the bank remembers."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections and of the bank."""
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature."""
    negatives: int = Field(default=16384, ge=1)
    """Rows drawn from the bank in each step."""
    bank_momentum: float = Field(default=0.5, gt=0, le=1)
    """Weight of the new feature in its row of the bank; 1 overwrites."""
    shard_bank: bool = False
    """Spread the bank over the processes: less memory for each, more traffic."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.03, weight_decay=1e-4, decay_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule()
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["NPIDv2Config", list[str]]:
        """Keep the negatives within the images outside the batch."""
        check_view_count(
            self.views.n_views,
            1,
            "the bank is the partner of the one crop",
            "set views.counts to [1]",
        )
        return lowered_negatives(self, dataset_size, batch_size)


class NPIDv2(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: NPIDv2Config, *, dataset_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.hidden_dim, config.output_dim)
        self.bank = MemoryBank(dataset_size, config.output_dim, sharded=config.shard_bank)
        self.config = config
        self._new: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell each image's row of the bank from the rows of others."""
        features, query, positive, negatives = self.encode(batch, progress)
        loss = info_nce(query, positive, negatives, temperature=self.config.temperature)
        logs = {"chance_loss": torch.full_like(loss.detach(), math.log(1 + len(negatives)))}
        return StepOutput(loss, logs, features)

    def encode(self, batch: Batch, progress: Progress) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute features (B, dim) and queries (B, output_dim), which will enter the bank.

        The other two are what the bank holds of the images, (B, output_dim), and of others, (K,
        output_dim).
        """
        features = self.backbone(batch.views[0])  # (B, dim)
        query = unit(self.projector(features))  # (B, output_dim)
        drawn = self.bank.sample(self.config.negatives, step=progress.step, avoid=batch.rows)
        self._new.append((batch.rows, query.detach()))
        return features, query, self.bank.read(batch.rows), self.bank.read(drawn, same=True)

    def after_update(self, progress: Progress) -> None:
        """Move the rows of the step towards their new features."""
        for rows, values in self._new:  # one entry per accumulated part
            self.bank.write(rows, values, momentum=self.config.bank_momentum)
        self._new.clear()
