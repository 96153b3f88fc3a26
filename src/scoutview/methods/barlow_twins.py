"""Barlow Twins: the features of two views agree one by one and say different things.

Source: Zbontar et al., 2021, arXiv:2103.03230.
Deviations: views without colour, without flips and without solarisation, because our images are
grey and have a left and a right.
"""

from pydantic import Field

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone
from scoutview.nn.heads import mlp
from scoutview.nn.losses.redundancy import barlow_twins_loss
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.views.policy import Augment, Intensity, TwoCrops

_FIRST = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=1.0))
_SECOND = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.1))


class BarlowTwinsConfig(MethodConfig):
    """Defaults are the paper's."""

    views: TwoCrops = TwoCrops(scale=(0.08, 1.0), first=_FIRST, second=_SECOND)
    """Two crops of every image."""
    hidden_dim: int = Field(default=8192, ge=1)
    """Width of the projector's two hidden layers."""
    output_dim: int = Field(default=8192, ge=2)
    """Width of the projections."""
    off_diagonal: float = Field(default=0.005, ge=0)
    """Weight of the redundancy term, lambda; the published code has 0.0051."""
    variance_eps: float = Field(default=0.0, ge=0)
    """Added to the variances; the published code has 1e-5."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.2, lr_excluded=0.0048, weight_decay=1.5e-6)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=10, final=0.001)
    """Learning-rate schedule."""

    def preflight(
        self, dataset_size: int, batch_size: int
    ) -> tuple["BarlowTwinsConfig", list[str]]:
        """Say when the projector is out of proportion to the data."""
        if self.output_dim <= dataset_size:
            return self, []
        return self, [
            f"output_dim {self.output_dim} is more than the {dataset_size} training images can tell"
            " apart, and most of the cost; 512 to 2048 is usual for small data."
        ]


class BarlowTwins(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: BarlowTwinsConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(
            backbone.dim,
            config.hidden_dim,
            config.output_dim,
            layers=3,
            batch_norm=True,
            hidden_bias=False,
            out_bias=False,
        )
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compare the cross-correlation of the two views with the identity."""
        # Each view passes alone, because its batch statistics are its own in the paper.
        f0, f1 = (self.backbone(view) for view in batch.views)  # (B, dim) each
        z0, z1 = self.projector(f0), self.projector(f1)  # (B, output_dim) each
        loss = barlow_twins_loss(
            z0, z1, off_diagonal=self.config.off_diagonal, eps=self.config.variance_eps
        )
        return StepOutput(loss, {}, f0)
