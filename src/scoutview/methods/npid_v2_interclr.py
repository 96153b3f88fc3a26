"""InterCLR on NPIDv2: an image finds itself, and images of its cluster, in one memory bank.

Source: Xie et al., 2022, arXiv:2008.11702; Wu et al., 2018, arXiv:1805.01978.
Deviations: those of NPIDv2. Negatives of the inter branch are the whole pool of 163,840 drawn
images, weighted as 16,384 draws from it, the same images for the whole batch. Centroids follow
every step, small clusters are repaired every 100 steps, several at once. An image is not its own
positive.
"""

import copy
from typing import cast

from torch import nn

from scoutview.contract import Objective, Progress, StepOutput, Sweep
from scoutview.data.batch import Batch
from scoutview.methods.inter_branch import InterBranch
from scoutview.methods.inter_config import InterNegativesConfig, fitted_inter
from scoutview.methods.npid_v2 import NPIDv2, NPIDv2Config
from scoutview.nn.backbones import Backbone
from scoutview.nn.precision import unit


class NPIDv2InterCLRConfig(NPIDv2Config, InterNegativesConfig):
    """NPIDv2's settings and those of the inter branch; defaults are the paper's."""

    def preflight(
        self, dataset_size: int, batch_size: int
    ) -> tuple["NPIDv2InterCLRConfig", list[str]]:
        """Keep clusters and the negatives of both branches within the data."""
        base, notes = super().preflight(dataset_size, batch_size)
        config, more = fitted_inter(cast("NPIDv2InterCLRConfig", base), dataset_size)
        return config, notes + more


class NPIDv2InterCLR(Objective):
    """See the module docstring."""

    def __init__(
        self, backbone: Backbone, config: NPIDv2InterCLRConfig, *, dataset_size: int
    ) -> None:
        super().__init__()
        self.base = NPIDv2(backbone, config, dataset_size=dataset_size)
        self.inter = InterBranch(config, self.base.bank, config.output_dim)
        self.inter_head = copy.deepcopy(self.base.projector) if config.separate_head else None
        self.config = config

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]
        """The network that is trained."""
        return self.base.backbone

    @property
    def projector(self) -> nn.Sequential:
        """The head of both branches."""
        return self.base.projector

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Tell an image, and an image of its cluster, from others in the bank."""
        features, query, itself, others = self.base.encode(batch, progress)
        loss, logs = self.inter.contrast(
            self.base.bank,
            batch.rows,
            progress,
            query=query,
            partner=itself,
            others=others,
            asking=query if self.inter_head is None else unit(self.inter_head(features)),
            temperature=self.config.temperature,
        )
        self.inter.collect(batch.rows)
        return StepOutput(loss, logs, features)

    def after_update(self, progress: Progress) -> None:
        """Store the features of the step in the bank and relabel them."""
        self.inter.follow(self.base.bank, lambda: self.base.after_update(progress), progress)

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """Fill and cluster the bank."""
        self.inter.begin(self.base.bank, sweep, progress, self.backbone, self.projector)
