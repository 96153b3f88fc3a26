"""InterCLR on BYOL: both views predict each other, and an image of the same cluster.

Source: Xie et al., 2022, arXiv:2008.11702, section 5.1; Grill et al., 2020, arXiv:2006.07733.
Deviations: those of BYOL. The bank holds the teacher's projections of the second views, and both
views predict the same image of the cluster, because the paper says neither. Centroids follow every
step, small clusters are repaired every 100 steps, several at once. An image is not its own
positive.
"""

import copy
from typing import cast

from pydantic import Field
from torch import Tensor, nn

from scoutview.contract import Objective, Progress, StepOutput, Sweep
from scoutview.data.batch import Batch
from scoutview.methods.byol import BYOL, BYOLConfig
from scoutview.methods.inter_branch import InterBranch
from scoutview.methods.inter_config import InterConfig, fitted_inter
from scoutview.nn.backbones import Backbone
from scoutview.nn.banks import MemoryBank
from scoutview.nn.losses.regression import symmetric_regression
from scoutview.nn.optim_config import LARSConfig, OptimizerConfig
from scoutview.nn.precision import unit


class BYOLInterCLRConfig(BYOLConfig, InterConfig):
    """BYOL's settings, those of the inter branch and of its bank; defaults for 200 epochs."""

    momentum: float = Field(default=0.99, ge=0, le=1)
    """Share of the teacher that stays at the first update; 0.996 for 1,000 epochs."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.3, weight_decay=1e-6)
    """Optimiser; lr 0.2 and weight decay 1.5e-6 for 1,000 epochs."""
    bank_momentum: float = Field(default=1.0, gt=0, le=1)
    """Weight of the new projection in its row of the bank; 1 overwrites."""
    shard_bank: bool = False
    """Spread the bank over the processes: less memory for each, more traffic."""

    def preflight(
        self, dataset_size: int, batch_size: int
    ) -> tuple["BYOLInterCLRConfig", list[str]]:
        """Keep clusters within the data, and say when the batch is too small for batch norm."""
        base, notes = super().preflight(dataset_size, batch_size)
        config, more = fitted_inter(cast("BYOLInterCLRConfig", base), dataset_size)
        return config, notes + more


class BYOLInterCLR(Objective):
    """See the module docstring."""

    def __init__(
        self, backbone: Backbone, config: BYOLInterCLRConfig, *, dataset_size: int
    ) -> None:
        super().__init__()
        self.base = BYOL(backbone, config)
        self.bank = MemoryBank(dataset_size, config.output_dim, sharded=config.shard_bank)
        self.inter = InterBranch(config, self.bank, config.output_dim)
        head = nn.Sequential(self.base.projector, self.base.predictor)
        self.inter_head = copy.deepcopy(head) if config.separate_head else None
        self.config = config
        self._new: list[tuple[Tensor, Tensor]] = []

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]
        """The student's network."""
        return self.base.backbone

    @property
    def projector(self) -> nn.Sequential:
        """The student's projector."""
        return self.base.projector

    @property
    def predictor(self) -> nn.Sequential:
        """The student's predictor."""
        return self.base.predictor

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Predict the other view, and an image of the cluster, from each view."""
        features, predictions, targets = self.base.encode(batch)
        intra = symmetric_regression(*predictions, *targets)
        positive = self.inter.positives(self.bank, batch.rows, progress)  # (B, output_dim)
        asking = predictions
        if self.inter_head is not None:
            asking = [self.inter_head(f) for f in features]  # (B, output_dim) each
        inter = symmetric_regression(asking[0], asking[1], positive, positive)
        self._new.append((batch.rows, unit(targets[1])))
        self.inter.collect(batch.rows)
        loss = self.inter.weighted(intra, inter, progress)
        return StepOutput(loss, self.inter.logs(intra, inter), features[0])

    def after_update(self, progress: Progress) -> None:
        """Store the projections of the step in the bank, relabel them, and move the teacher."""
        self.inter.follow(self.bank, self._write, progress)
        self.base.after_update(progress)

    def _write(self) -> None:
        for rows, values in self._new:  # one entry per accumulated part
            self.bank.write(rows, values, momentum=self.config.bank_momentum)
        self._new.clear()

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """Fill and cluster the bank, by the teacher."""
        networks = (self.base.teacher_backbone, self.base.teacher_projector)
        self.inter.begin(self.bank, sweep, progress, *networks)
