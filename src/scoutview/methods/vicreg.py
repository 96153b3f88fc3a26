"""VICReg: views agree, every feature varies over the batch, and no two features say the same.

Source: Bardes et al., 2022, arXiv:2105.04906.
Deviations: views without colour, without flips and without solarisation, because our images are
grey and have a left and a right.
"""

from typing import Literal

from pydantic import Field

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone
from scoutview.nn.heads import mlp
from scoutview.nn.losses.redundancy import vicreg_terms
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.5))


class VICRegConfig(MethodConfig):
    """Defaults are the paper's."""

    views: TwoCrops = TwoCrops(scale=(0.08, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    hidden_dim: int = Field(default=8192, ge=1)
    """Width of the projector's two hidden layers."""
    output_dim: int = Field(default=8192, ge=2)
    """Width of the projections."""
    invariance: float = Field(default=25.0, ge=0)
    """Weight of the distance between the views, lambda."""
    variance: float = Field(default=25.0, ge=0)
    """Weight of what the standard deviations lack, mu."""
    covariance: float = Field(default=1.0, ge=0)
    """Weight of the redundancy between features, nu."""
    target_std: float = Field(default=1.0, gt=0)
    """Standard deviation that every feature should reach, gamma."""
    variance_eps: float = Field(default=1e-4, gt=0)
    """Added to the variance inside the root."""
    loss_form: Literal["equations", "algorithm", "code"] = "equations"
    """The distance summed over the features and the variance terms of both views added (the paper's
    "equations"), the distance averaged instead (its "algorithm" 1), or both averaged
    (facebookresearch/vicreg)."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.2, weight_decay=1e-6)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(warmup_epochs=10, final=0.00125)
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["VICRegConfig", list[str]]:
        """Say what keeps the features narrow, and when the projector is too wide for the data."""
        notes = []
        if self.loss_form == "equations" and self.invariance * self.output_dim > 25 * self.variance:
            notes.append(
                f"loss_form 'equations' sums the distance over {self.output_dim} features, so that"
                " it outweighs the variance and the features stay narrow; set loss_form to 'code',"
                f" or invariance to {25.0 / self.output_dim:.2g}."
            )
        if self.output_dim > dataset_size:
            notes.append(
                f"output_dim {self.output_dim} is more than the {dataset_size} training images can"
                " tell apart, and most of the cost; 512 to 2048 is usual for small data."
            )
        return self, notes


class VICReg(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: VICRegConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(
            backbone.dim,
            config.hidden_dim,
            config.output_dim,
            layers=3,
            batch_norm=True,
            out_bias=False,
        )
        self.config = config

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Weigh the three terms of the two views."""
        # Each view passes alone, because its batch statistics are its own in the paper.
        config = self.config
        f0, f1 = (self.backbone(view) for view in batch.views)  # (B, dim) each
        z0, z1 = self.projector(f0), self.projector(f1)  # (B, output_dim) each
        invariance, variance, covariance = vicreg_terms(
            z0, z1, gamma=config.target_std, eps=config.variance_eps
        )
        if config.loss_form != "equations":
            invariance = invariance / z0.shape[1]
        if config.loss_form == "code":
            variance = variance / 2.0
        loss = (
            config.invariance * invariance
            + config.variance * variance
            + config.covariance * covariance
        )
        logs = {
            "invariance": invariance.detach(),
            "variance": variance.detach(),
            "covariance": covariance.detach(),
        }
        return StepOutput(loss, logs, f0)
