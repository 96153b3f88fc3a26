"""`scoutview index`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from scoutview.cli.terminal import note, settings


def index(
    *sources: Path,
    out: Path,
    labels: tuple[Path, ...] = (),
    split: Literal["source", "holdout", "kfold"] | None = None,
    key: Path | None = None,
    strict: bool = False,
    workers: int | None = None,
    config: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter("--set")] = (),
) -> None:
    """Index folders of scans into a cohort. Headers only; sources are never changed.

    Parameters
    ----------
    sources
        Files and folders: DICOM, NIfTI, PNG, JPEG, TIFF, MedMNIST npz, zip.
    out
        Folder of the cohort. An existing cohort is brought up to date.
    labels
        CSV, TSV or Parquet tables whose id column is found by itself.
    split
        How patients are split: the source's own (default), a hold-out, or folds.
    key
        File with the pseudonym key, to share patients between cohorts; made when missing.
    strict
        Any problem is an error.
    workers
        Processes; one per core by default.
    config
        YAML or JSON file with all settings: boxes, labelmaps, reports, label kinds, splits.
    set_
        One setting, as split.test=0.3 beside --split holdout. May be repeated.
    """
    from scoutview.api.index import index as run
    from scoutview.api.show import show
    from scoutview.index.config import IndexConfig

    values: dict[str, Any] = {}
    if split is not None:
        values["split.kind"] = split
    if labels:
        values["labels"] = [{"table": str(table)} for table in labels]
    if key is not None:
        values["key_file"] = str(key)
    if strict:
        values["strict"] = True
    if workers is not None:
        values["workers"] = workers
    folder = run(sources, out, config=settings(IndexConfig, config, values, set_))
    note(show(folder).text)
    note(f"Cohort: {folder}")
