"""MoCo v1: MoCo with a linear head, a low temperature, no blur and a rate that falls in steps.

The class is MoCo v2's; only the defaults differ.

Source: He et al., 2019, arXiv:1911.05722.
Deviations: those of MoCo v2.
"""

from pydantic import Field

from scoutview.methods.moco_v2 import MoCoV2, MoCoV2Config
from scoutview.nn.optim_config import ScheduleConfig, StepSchedule
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, jitter_probability=1.0))


class MoCoV1Config(MoCoV2Config):
    """Defaults are the paper's, for 200 epochs."""

    views: TwoCrops = TwoCrops(scale=(0.2, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    projector_layers: int = Field(default=1, ge=1)
    """Linear layers of the projector; one has no hidden width."""
    temperature: float = Field(default=0.07, gt=0)
    """Softmax temperature of the loss."""
    schedule: ScheduleConfig = StepSchedule(milestones=(120, 160), factor=0.1)
    """Learning-rate schedule."""


__all__ = ["MoCoV1Config", "MoCoV2"]
