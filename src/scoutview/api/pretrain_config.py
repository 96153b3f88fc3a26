"""Settings of `pretrain`."""

from typing import Any, Literal

from pydantic import Field, model_validator

from scoutview.api.pretrain_views import ViewPreset
from scoutview.data.samples import DataConfig
from scoutview.index.labels import Policy
from scoutview.methods.hybrid import HybridConfig
from scoutview.nn.backbones import BackboneConfig
from scoutview.train.config import FitConfig
from scoutview.views.policy import EnergyBands, EvalView


class PretrainConfig(FitConfig):
    """One pre-training. Optimiser and schedule are the method's own unless written here."""

    epochs: int | None = Field(default=100, ge=1)
    """Budget in passes over the training set, unless `samples` is set."""
    backbone: BackboneConfig = BackboneConfig()
    """What is trained."""
    data: DataConfig = DataConfig()
    """Which images, slices and grey values; without a split, the training part if there is one."""
    balance_modalities: bool = False
    """Give every modality an equal part of each batch; on where the method asks for it."""
    hybrid: HybridConfig | None = None
    """Also learn from the labels, where there are some; null learns from images alone."""
    view_preset: ViewPreset = "method"
    """Views of the "method", or its numbers and sizes with the "medical" changes: rescale, energy
    bands, gamma, linear values (Ghesu et al., 2022)."""
    energy_bands: EnergyBands | None = None
    """Change how strong details of every size are, in all random views; reference energies are
    measured on the training images before training and stored with the method's views."""
    view: EvalView | None = None
    """Evaluation view of probes and of the exported model; null is the size of the largest view."""
    mean: float = 0.5
    """Subtracted from grey values in [0, 1]."""
    std: float = Field(default=0.5, gt=0)
    """Grey values are divided by this afterwards."""
    views_on: Literal["cpu", "device"] = "cpu"
    """Where random views are made: by the threads of the loader, or on the device, to which images
    then travel once and whole. The same views, but for the roundings of the CPU."""
    workers: int | None = Field(default=None, ge=0)
    """Threads that make views; null is 1 on the CPU, and the cores per process (8 at most) for
    GPUs."""
    labels: tuple[str, ...] = ()
    """Labels of the probes and of supervised pre-training; empty takes all of the cohort."""
    uncertain: Policy = "ones"
    """What an uncertain label counts as."""
    probe_every: int | None = Field(default=10, ge=1)
    """Epochs between kNN and linear probes, if there are labels; null never probes."""
    probe_images: int = Field(default=2000, ge=10)
    """Most labelled images that a probe learns from, and most that it is scored on."""

    @model_validator(mode="before")
    @classmethod
    def _samples_replace_epochs(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("samples") is not None:
            return {"epochs": None, **values}
        return values
