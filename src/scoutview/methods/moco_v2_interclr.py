"""InterCLR on MoCo v2: a view finds its partner, and images of its cluster, among all others.

Source: Xie et al., 2022, arXiv:2008.11702; Chen et al., 2020, arXiv:2003.04297.
Deviations: those of MoCo v2. Negatives are the whole pool of 163,840 drawn images, weighted as
16,384 draws from it, the same images for the whole batch. Centroids follow every step, small
clusters are repaired every 100 steps, several at once. An image is not its own positive. The first
features are those of the teacher in evaluation mode.
"""

import copy
from typing import cast

from pydantic import Field
from torch import Tensor, nn

from scoutview.contract import Objective, Progress, StepOutput, Sweep
from scoutview.data.batch import Batch
from scoutview.methods.inter_branch import InterBranch
from scoutview.methods.inter_config import InterNegativesConfig, fitted_inter
from scoutview.methods.moco_v2 import MoCoV2, MoCoV2Config
from scoutview.nn.backbones import Backbone
from scoutview.nn.banks import MemoryBank
from scoutview.nn.precision import unit


class MoCoV2InterCLRConfig(MoCoV2Config, InterNegativesConfig):
    """MoCo v2's settings, those of the inter branch and of its bank; defaults are the paper's."""

    bank_momentum: float = Field(default=1.0, gt=0, le=1)
    """Weight of the new key in its row of the bank; 1 overwrites."""
    shard_bank: bool = False
    """Spread the bank over the processes: less memory for each, more traffic."""

    def preflight(
        self, dataset_size: int, batch_size: int
    ) -> tuple["MoCoV2InterCLRConfig", list[str]]:
        """Keep queue, clusters and negatives within the data."""
        base, notes = super().preflight(dataset_size, batch_size)
        config, more = fitted_inter(cast("MoCoV2InterCLRConfig", base), dataset_size)
        return config, notes + more


class MoCoV2InterCLR(Objective):
    """See the module docstring."""

    def __init__(
        self, backbone: Backbone, config: MoCoV2InterCLRConfig, *, dataset_size: int
    ) -> None:
        super().__init__()
        self.base = MoCoV2(backbone, config)
        self.bank = MemoryBank(dataset_size, config.output_dim, sharded=config.shard_bank)
        self.inter = InterBranch(config, self.bank, config.output_dim)
        self.inter_head = copy.deepcopy(self.base.projector) if config.separate_head else None
        self.config = config
        self._new: list[tuple[Tensor, Tensor]] = []

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]
        """The student's network."""
        return self.base.backbone

    @property
    def projector(self) -> nn.Sequential:
        """The student's head."""
        return self.base.projector

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell the partner from the queue, and an image of the cluster from the other clusters."""
        features, query, key = self.base.encode(batch, progress)
        loss, logs = self.inter.contrast(
            self.bank,
            batch.rows,
            progress,
            query=query,
            partner=key,
            others=self.base.queue.rows,
            asking=query if self.inter_head is None else unit(self.inter_head(features)),
            temperature=self.config.temperature,
            images=self.base.queue.images if self.config.own_keys == "skip" else None,
        )
        self._new.append((batch.rows, key))
        self.inter.collect(batch.rows)
        return StepOutput(loss, logs, features)

    def after_update(self, progress: Progress) -> None:
        """Store the keys of the step in bank and queue, relabel them, and move the teacher."""
        self.inter.follow(self.bank, self._write, progress)
        self.base.after_update(progress)

    def _write(self) -> None:
        for rows, keys in self._new:  # one entry per accumulated part
            self.bank.write(rows, keys, momentum=self.config.bank_momentum)
        self._new.clear()

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """Fill and cluster the bank, by the teacher."""
        networks = (self.base.teacher_backbone, self.base.teacher_projector)
        self.inter.begin(self.bank, sweep, progress, *networks)
