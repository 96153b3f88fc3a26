"""Settings of `transfer`, and what they take over from a pre-training run."""

import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from scoutview.api.transfer_runs import FineTune, Start
from scoutview.base.config import Config
from scoutview.data.samples import DataConfig
from scoutview.index.labels import Policy
from scoutview.nn.backbones import BackboneConfig
from scoutview.results.run import RunFolder
from scoutview.tasks.leakage import OnLeak
from scoutview.tasks.probe import LinearProbe, LogisticRegression, RandomForest
from scoutview.views.policy import EvalView

log = logging.getLogger(__name__)

Mode = Annotated[
    LinearProbe | FineTune | LogisticRegression | RandomForest, Field(discriminator="kind")
]


class TransferConfig(Config):
    """What is trained on which labels. Everything but `mode` is shared by what is compared."""

    mode: Mode = LinearProbe()
    """What is trained: "linear_probe", "fine_tune", "frozen_head"; on raw pixels
    "logistic_regression" or "random_forest"."""
    labels: tuple[str, ...] = ()
    """Labels to learn; empty takes all of the cohort."""
    uncertain: Policy = "ignore"
    """What an uncertain label counts as: "ones", "zeros" or "ignore"."""
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)
    """Shares of the labelled training patients to learn from, each in (0, 1]."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2, 3, 4)
    """Each seed draws its own label subset and its own training."""
    folds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Cross-validation folds to test on, validation is the next fold; empty uses the cohort's
    train, val and test."""
    on_leak: OnLeak = "refuse"
    """Copies of images across the split: "refuse", "drop" the copies from train, or "allow"."""
    backbone: BackboneConfig = BackboneConfig()
    """Network of "random", "imagenet" and weight files; a pre-training run brings its own."""
    backbone_seed: int = Field(default=0, ge=0)
    """Seed of a random backbone that is only probed: one backbone, as there is one of each
    pre-training, so another number may change a close verdict. Fine-tuning draws a new start per
    seed."""
    view: EvalView = EvalView()
    """What validation, test and probes see. Where `view`, `mean`, `std` or the intensity are not
    written, a pre-training run brings its own."""
    data: DataConfig = DataConfig()
    """Which images (`where`), slices of volumes and intensities. `split` stays null: a transfer
    needs all parts. Outputs of a volume's slices are averaged."""
    mean: float = 0.5
    """Subtracted from grey values in [0, 1]."""
    std: float = Field(default=0.5, gt=0)
    """Grey values are divided by it."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass of evaluation."""
    threads: int = Field(default=1, ge=0)
    """Threads that read images and make views."""
    name: str | None = None
    """Name of the initialisation in tables; null takes the method's, the file's or the kind's."""
    title: str = ""
    """What the results page is called."""


def like_run(config: TransferConfig, run: str | Path) -> TransferConfig:
    """Let what the user left open follow a pre-training run, for all that is compared with it.

    Args:
        config: Settings of a transfer.
        run: The run whose backbone, view and grey values hold where `config` is silent.

    Raises:
        RunError: There is no run.
    """
    values = RunFolder.open(run).config
    backbone = BackboneConfig.build(dict(values["backbone"]) | {"weights": None})
    shown, data = _shown_to(values)
    return _where_silent(config, {"backbone": backbone} | shown, data)


def as_pretrained(start: Start, config: TransferConfig) -> tuple[TransferConfig, list[str]]:
    """Show a pre-trained backbone what it was trained on, unless the user wrote something else.

    Returns:
        The settings, and notes on what the user wrote that differs.
    """
    if start.run is None:
        return config, []
    shown, data = _shown_to(RunFolder.open(start.run).config)
    notes = [
        f"{start.name} was pre-trained with another {name} than this transfer uses."
        for name in shown
        if name in config.model_fields_set and getattr(config, name) != shown[name]
    ]
    notes += [
        f"{start.name} was pre-trained with another {name} policy than this transfer uses."
        for name in data
        if name in config.data.model_fields_set and getattr(config.data, name) != data[name]
    ]
    for note in notes:
        log.warning("%s", note)
    return _where_silent(config, shown, data), notes


def _shown_to(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read from a run's settings how images were shown to it, and how their pixels were read."""
    before = DataConfig.build(values["data"])
    shown = {"view": EvalView.build(values["view"]), "mean": values["mean"], "std": values["std"]}
    return shown, {"intensity": before.intensity, "channel": before.channel}


def _where_silent(
    config: TransferConfig, theirs: dict[str, Any], data: dict[str, Any]
) -> TransferConfig:
    """Take over what the user has not written."""
    update = {k: v for k, v in theirs.items() if k not in config.model_fields_set}
    unwritten = {k: v for k, v in data.items() if k not in config.data.model_fields_set}
    update["data"] = config.data.model_copy(update=unwritten)
    return config.model_copy(update=update)
