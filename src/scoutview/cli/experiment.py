"""`scoutview experiment`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from scoutview.cli.terminal import note, settings


def experiment(
    cohort: Path,
    *,
    out: Path,
    config: Path,
    set_: Annotated[tuple[str, ...], Parameter("--set")] = (),
    where: str | None = None,
    workers: int = 1,
    backend: Literal["local", "ray"] = "local",
    resume: bool = False,
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
        Arms at the same time.
    backend
        local processes, or ray (needs the extra "cluster").
    resume
        Go on in a folder that has content: what has finished is kept.
    """
    from scoutview.api.experiment import ExperimentConfig
    from scoutview.api.experiment import experiment as run

    flags = {} if where is None else {"where": where}
    grid = settings(ExperimentConfig, config, flags, set_)
    page = run(cohort, out, grid, workers=workers, backend=backend, resume=resume)
    note(f"Results page: {page}")
