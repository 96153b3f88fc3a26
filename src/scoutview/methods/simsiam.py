"""SimSiam: each view predicts the other; what is predicted gets no gradient.

Source: Chen & He, 2021, arXiv:2011.10566.
Deviations: views without colour and without flips, because our images are grey and have a left and
a right.
"""

from pydantic import Field

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone
from scoutview.nn.heads import mlp
from scoutview.nn.losses.regression import symmetric_negative_cosine
from scoutview.nn.optim_config import CosineSchedule, OptimizerConfig, ScheduleConfig, SGDConfig
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.5))


class SimSiamConfig(MethodConfig):
    """Defaults are the paper's."""

    views: TwoCrops = TwoCrops(scale=(0.2, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layers."""
    output_dim: int = Field(default=2048, ge=1)
    """Width of projections and predictions."""
    bottleneck_dim: int = Field(default=512, ge=1)
    """Width of the predictor's hidden layer."""
    constant_predictor_rate: bool = True
    """Keep the predictor's learning rate at its peak; false lets it follow the schedule."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.05, weight_decay=1e-4, decay_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(per="epoch")
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["SimSiamConfig", list[str]]:
        """Say when the batch is too small for batch norm."""
        if batch_size >= 32:
            return self, []
        return self, [
            f"A batch of {batch_size} gives poor batch statistics, without which SimSiam tends to"
            " collapse; raise batch_size or use moco_v2."
        ]


class SimSiam(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: SimSiamConfig) -> None:
        super().__init__()
        hidden, out = config.hidden_dim, config.output_dim
        self.backbone = backbone
        self.projector = mlp(
            backbone.dim,
            hidden,
            out,
            layers=3,
            batch_norm=True,
            hidden_bias=False,
            out_bias=False,
            out_batch_norm=True,
        )
        self.predictor = mlp(out, config.bottleneck_dim, out, batch_norm=True, hidden_bias=False)
        if config.constant_predictor_rate:
            self.constant_rate = ("predictor",)

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Predict each view's projection from the other view."""
        # Each view passes alone, because its batch statistics are its own in the paper.
        features = [self.backbone(view) for view in batch.views]  # (B, dim) each
        z0, z1 = (self.projector(f) for f in features)  # (B, output_dim) each
        p0, p1 = self.predictor(z0), self.predictor(z1)  # (B, output_dim) each
        loss = symmetric_negative_cosine(p0, p1, z0.detach(), z1.detach())
        return StepOutput(loss, {}, features[0])
