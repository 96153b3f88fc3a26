"""`scoutview experiment`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from scoutview.base.errors import ConfigError
from scoutview.cli.terminal import Resume, note, require_alone, settings


def experiment(
    cohort: Path | None = None,
    *,
    out: Path | None = None,
    config: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter("--set")] = (),
    where: str | None = None,
    workers: int = 1,
    backend: Literal["local", "ray"] = "local",
    resume: Resume = None,
) -> None:
    """Pre-train, transfer and compare a grid.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    out
        Folder of the experiment.
    config
        YAML or JSON file with the arms and what they share.
    set_
        One setting, as transfer.fractions=[0.1,1]. May be repeated.
    where
        Only images for which this holds, in every part, as "modality == 'CT'".
    workers
        Arms at the same time, at least 1; 1 by default.
    backend
        local processes (default), or ray (needs the extra "cluster").
    resume
        Go on in a folder that has content, what has finished is kept: the folder alone, or
        --resume beside the other arguments.
    """
    given = locals()
    from scoutview.api.experiment import ExperimentConfig, resume_experiment
    from scoutview.api.experiment import experiment as run

    if resume:
        require_alone(experiment, given, ("cohort", "workers", "backend"))
        page = resume_experiment(resume[0], cohort, workers=workers, backend=backend)
    elif cohort is None or out is None or config is None:
        raise ConfigError(
            "experiment needs a cohort, --out FOLDER and --config FILE; or --resume FOLDER alone."
        )
    else:
        grid = settings(ExperimentConfig, config, {} if where is None else {"where": where}, set_)
        again = resume is not None
        page = run(cohort, out, grid, workers=workers, backend=backend, resume=again)
    note(f"Results page: {page}")
