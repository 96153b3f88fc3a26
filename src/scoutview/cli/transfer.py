"""`scoutview transfer`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from scoutview.base.errors import ConfigError
from scoutview.cli.terminal import Resume, note, require_alone, settings

ModeName = Literal[
    "linear_probe", "fine_tune", "frozen_head", "logistic_regression", "random_forest"
]


def transfer(
    cohort: Path | None = None,
    *,
    out: Path | None = None,
    init: tuple[str, ...] = ("random",),
    task: str = "classification",
    mode: ModeName | None = None,
    label: tuple[str, ...] = (),
    fraction: tuple[float, ...] = (),
    seed: tuple[int, ...] = (),
    where: str | None = None,
    on_leak: Literal["refuse", "drop", "allow"] | None = None,
    config: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter("--set")] = (),
    resume: Resume = None,
) -> None:
    """Train and test a task from one or more initialisations, on the same labels.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    out
        New folder of the study.
    init
        A pre-training run, a file of weights, imagenet, random, or raw_pixels; NAME=PATH names it
        in tables. May be repeated.
    task
        classification.
    mode
        What is trained on the labels: linear_probe (default), fine_tune, frozen_head; on
        raw_pixels logistic_regression or random_forest.
    label
        Labels to learn; all of the cohort by default. May be repeated.
    fraction
        Share of the labelled training patients, above 0, at most 1; 1.0 by default. May be
        repeated.
    seed
        Each seed draws its own label subset. May be repeated; 0 to 4 by default.
    where
        Only images for which this holds.
    on_leak
        Copies of images across the split: refuse (default), drop them from train, or allow.
    config
        YAML or JSON file with all settings.
    set_
        One setting, as backbone.name=resnet18; config.json of a run of the study has all. May be
        repeated.
    resume
        With a study's folder alone: go on with it. Beside the other arguments: also add
        initialisations, fractions or seeds to it.
    """
    given = locals()
    from scoutview.api.transfer import resume_transfer
    from scoutview.api.transfer import transfer as run
    from scoutview.api.transfer_config import TransferConfig, like_run
    from scoutview.api.transfer_starts import split_name

    if resume:
        require_alone(transfer, given)
        note(f"Study: {resume_transfer(resume[0], cohort)}")
        return
    if cohort is None or out is None:
        raise ConfigError("transfer needs a cohort and --out FOLDER; or --resume FOLDER alone.")
    flags: dict[str, Any] = {
        "mode.kind": mode,
        "labels": list(label),
        "fractions": list(fraction),
        "seeds": list(seed),
        "data.where": where,
        "on_leak": on_leak,
    }
    wishes = {name: value for name, value in flags.items() if value not in (None, [])}
    chosen = settings(TransferConfig, config, wishes, set_)
    places = [split_name(start)[1] for start in init]
    runs = [place for place in places if (Path(place) / "config.json").is_file()]
    if runs:  # "random" beside a run means: the run's network without its training
        chosen = like_run(chosen, runs[0])
    note(f"Study: {run(cohort, task, init, out, chosen, resume=resume is not None)}")
