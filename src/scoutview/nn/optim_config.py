"""Optimisers and schedules as configuration; `train` builds the real ones from these.

No torch here: a method's configuration holds these models, and listing methods must stay fast.
"""

from typing import Annotated, Literal

from pydantic import Field

from scoutview.base.config import Config

LARSVariant = Literal["paper", "classic", "popular", "pytorch", "larc"]


class _Scaled(Config):
    """What every optimiser shares."""

    lr: float = Field(gt=0)
    """Peak learning rate, for `lr_per` images in the global batch."""
    lr_per: int | None = 256
    """The rate is multiplied by global batch / lr_per; null uses `lr` as it is."""
    lr_growth: Literal["linear", "root"] = "linear"
    """"root" multiplies the rate by the square root of that ratio instead."""
    lr_excluded: float | None = Field(default=None, gt=0)
    """Peak learning rate of biases and norms, if it differs from `lr`; scaled like it."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay."""
    final_weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay at the end, reached along half a cosine; null keeps it constant."""
    decay_excluded: bool = False
    """Also decay biases and norm parameters (all parameters with fewer than two dimensions)."""


class SGDConfig(_Scaled):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    """Name of the optimiser."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum."""
    nesterov: bool = False
    """Nesterov momentum."""


class AdamConfig(_Scaled):
    """Adam; weight decay is added to the gradient."""

    kind: Literal["adam"] = "adam"
    """Name of the optimiser."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""


class AdamWConfig(_Scaled):
    """AdamW; weight decay acts on the weights."""

    kind: Literal["adamw"] = "adamw"
    """Name of the optimiser."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the mean of squared gradients."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""


class LARSConfig(_Scaled):
    """Layer-wise adaptive rate scaling around SGD with momentum.

    With w a weight, g its gradient, d the weight decay, c the trust coefficient, m the momentum:

    - paper: v = m v + lr c |w| / (|g| + d |w|) (g + d w); w = w - v  (You et al., algorithm 1)
    - classic: as paper with |g + d w| in the denominator  (google-research/simclr)
    - popular: v = m v + g + d w; w = w - lr c |w| / |v| v  (google-research/simclr with
      classic_momentum=False)
    - pytorch: v = m v + c |w| / |g + d w| (g + d w); w = w - lr v  (barlowtwins)
    - larc: v = m v + c |w| / (|g| + d |w| + 1e-8) (g + d w); w = w - lr v, no decay and no scaling
      where |w| or |g| is 0  (NVIDIA apex LARC, clip=False, as SwAV uses it)

    Source: You et al., 2017, arXiv:1708.03888.
    """

    kind: Literal["lars"] = "lars"
    """Name of the optimiser."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum."""
    trust_coefficient: float = Field(default=0.001, gt=0)
    """Trust coefficient, eta in the paper."""
    variant: LARSVariant = "paper"
    """Where the learning rate enters and what the denominator is; see the class."""
    adapt_excluded: bool = False
    """Also scale biases and norm parameters layer-wise (apex LARC does)."""


OptimizerConfig = Annotated[
    SGDConfig | AdamConfig | AdamWConfig | LARSConfig, Field(discriminator="kind")
]


class ConstantSchedule(Config):
    """The peak rate, after an optional linear warm-up from 0."""

    kind: Literal["constant"] = "constant"
    """Name of the schedule."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs of linear warm-up."""


class CosineSchedule(Config):
    """Linear warm-up, then half a cosine down to `final` times the peak."""

    kind: Literal["cosine"] = "cosine"
    """Name of the schedule."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs of linear warm-up; a default is lowered to half of a short training."""
    start: float = Field(default=0.0, ge=0, le=1)
    """Rate of the first step as a share of the peak."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Rate at the end as a share of the peak."""
    per: Literal["step", "epoch"] = "step"
    """Change the rate every step, or once per epoch (MoCo)."""
    form: Literal["standard", "swav"] = "standard"
    """The "swav" form repeats the peak at the end of the warm-up, as facebookresearch/swav does."""


class StepSchedule(Config):
    """The rate is multiplied by `factor` at each milestone."""

    kind: Literal["step"] = "step"
    """Name of the schedule."""
    milestones: tuple[float, ...] = ()
    """Epochs at which the rate changes."""
    factor: float = Field(default=0.1, gt=0, le=1)
    """Multiplier at each milestone."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs of linear warm-up."""


class CyclicCosineSchedule(Config):
    """Half cosines of `period_epochs`, restarted ("snapshot") or mirrored ("lovt")."""

    kind: Literal["cyclic_cosine"] = "cyclic_cosine"
    """Name of the schedule."""
    period_epochs: float = Field(default=1.0, gt=0)
    """Epochs from the peak down to `final`."""
    restart: bool = True
    """True jumps back to the peak after a period; false rises again over the next one."""
    growth: int = Field(default=1, ge=1)
    """Each period is this many times as long as the one before (restarts only; SGDR)."""
    final: float = Field(default=0.0, ge=0, le=1)
    """Lowest rate as a share of the peak."""


ScheduleConfig = Annotated[
    CosineSchedule | ConstantSchedule | StepSchedule | CyclicCosineSchedule,
    Field(discriminator="kind"),
]
