"""PCL v1: PCL with a linear head, a lower temperature, no blur and a rate that falls in steps.

The class is PCL v2's; only the defaults differ.

Source: Li et al., 2020, arXiv:2005.04966.
Deviations: those of PCL v2. The temperature is the paper's; the published command line has 0.2.
"""

from pydantic import Field

from scoutview.methods.pcl_v2 import PCL, PCLV2Config
from scoutview.nn.optim_config import ScheduleConfig, StepSchedule
from scoutview.views.policy import Augment, Intensity, TwoCrops

_AUGMENT = Augment(intensity=Intensity(brightness=0.4, contrast=0.4, jitter_probability=1.0))


class PCLV1Config(PCLV2Config):
    """Defaults are the paper's, for 200 epochs."""

    views: TwoCrops = TwoCrops(scale=(0.2, 1.0), first=_AUGMENT)
    """Two crops of every image."""
    projector_layers: int = Field(default=1, ge=1)
    """Linear layers of the projector; one has no hidden width."""
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the queue, and mean temperature of the prototypes."""
    schedule: ScheduleConfig = StepSchedule(milestones=(120, 160), factor=0.1)
    """Learning-rate schedule."""


__all__ = ["PCL", "PCLV1Config"]
