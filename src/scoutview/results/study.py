"""A study: runs that are compared with each other, and what each of them stands for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from scoutview.base.config import Config
from scoutview.base.errors import RunError
from scoutview.base.files import relative_place, remove_partial, require_empty, write_json
from scoutview.results.run import RunFolder, read_embeddings
from scoutview.results.schema import VERSIONS, read_versioned


class Initialisation(Config):
    """Where the weights of a compared model come from."""

    name: str
    """Short name, the same in all tables and figures."""
    kind: Literal["run", "file", "imagenet", "random", "supervised", "raw_pixels"]
    """A pre-training run, a file of weights, a public model, or a baseline without pre-training."""
    method: str = ""
    """Registry name of the pre-training method, "" for baselines."""
    run: str = ""
    """Folder of the pre-training run, relative to the study; "" if there is none."""
    file: str = ""
    """File of weights, relative to the study; "" if there is none."""
    weights: str = ""
    """SHA-256 of the file of weights; "" if there is none, or a version 1 did not write it."""


class StudyRun(Config):
    """One run of a study and its place in the grid."""

    path: str
    """Folder of the run, relative to the study."""
    initialisation: str
    """Name of one of the study's initialisations."""
    method: str
    """What was trained on the labels: "linear_probe", "fine_tune", "logistic_regression", ..."""
    fraction: float = Field(gt=0, le=1)
    """Share of the labelled training patients."""
    seed: int = Field(ge=0)
    """Seed of the label subset and of the training."""
    fold: int = -1
    """Cross-validation fold, -1 for a hold-out split."""


class StudyCall(Config):
    """What a call asked for: enough to make it again."""

    initialisations: tuple[str, ...]
    """Names of some of the study's initialisations."""
    settings: dict[str, Any]
    """What was written of the transfer's settings, as plain values."""


class StudyContent(Config):
    """Content of study.json."""

    task: str
    """Name of the transfer task, for example "classification"."""
    cohort: str
    """Folder of the cohort, relative to the study."""
    images: str = ""
    """SHA-256 of the cohort's images and their split, wherever it lies; "" if a version 1 did not
    write it."""
    title: str = ""
    """What the results page is called."""
    initialisations: tuple[Initialisation, ...] = ()
    runs: tuple[StudyRun, ...] = ()
    calls: tuple[StudyCall, ...] = ()
    """What the study was asked for, in order; () if a version 1 did not write it."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Plain values for the page. Known: `notes` (sentences), `dropped_duplicates` (list of
    {"split", "of_split", "kind", "image_ids"}: what was dropped from `split` and why)."""


class Study:
    """A folder with study.json and the runs it names. One process writes it."""

    def __init__(self, path: str | Path, content: StudyContent) -> None:
        self.path = Path(path)
        self.content = content

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        task: str,
        cohort: str | Path,
        images: str = "",
        title: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> Self:
        """Start a study in a new folder.

        Args:
            path: The folder.
            task: Name of the transfer task.
            cohort: Folder of the cohort; stored relative to the study.
            images: SHA-256 of its images and their split.
            title: What the results page is called.
            details: Plain values for the page, see `StudyContent.details`.

        Raises:
            RunError: The folder has content already.
        """
        remove_partial(path)  # of a start that was killed
        folder = require_empty(path)
        content = StudyContent(
            task=task,
            cohort=relative_place(cohort, folder),
            images=images,
            title=title,
            details=dict(details or {}),
        )
        study = cls(folder, content)
        study._write(content)  # first: what has no study.json can be started again
        (folder / "runs").mkdir()
        return study

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing study.

        Raises:
            RunError: There is no study in the folder, or it comes from a newer scoutview.
        """
        values = read_versioned(Path(path) / "study.json", "study")
        return cls(path, StudyContent.build(values))

    @property
    def cohort(self) -> Path:
        """Folder of the cohort."""
        return self.path / self.content.cohort

    def initialisation(self, name: str) -> Initialisation:
        """Look an initialisation up by name.

        Raises:
            RunError: The study has none of that name.
        """
        for known in self.content.initialisations:
            if known.name == name:
                return known
        names = ", ".join(known.name for known in self.content.initialisations)
        raise RunError(f"{self.path}: no initialisation {name!r}; the study has: {names}.")

    def pretraining(self, name: str) -> RunFolder | None:
        """Open the pre-training run of an initialisation, None if there is none at its place."""
        where = self.initialisation(name).run
        there = where and (self.path / where / "config.json").is_file()
        return RunFolder.open(self.path / where) if there else None

    def lost_pretrainings(self) -> list[str]:
        """Names of initialisations whose pre-training run is not where the study says."""
        known = [one.name for one in self.content.initialisations if one.run]
        return [name for name in known if self.pretraining(name) is None]

    def embeddings_folder(self, name: str) -> Path:
        """Where `embed` writes the embeddings of an initialisation that belong to the study."""
        return self.path / "embeddings" / _safe(name)

    def embeddings(self, name: str) -> tuple[pd.DataFrame, NDArray[np.float32]] | None:
        """Read the embeddings of an initialisation, None if there are none.

        Returns:
            Rows (image_id, patient_id, split) and features (N, dim), from the study's own
            folder or from the pre-training run.
        """
        own = self.embeddings_folder(name) / "embeddings.parquet"
        if own.is_file():
            return read_embeddings(own)
        run = self.pretraining(name)
        return run.embeddings() if run is not None and run.has_embeddings else None

    def find_cohort(self, cohort: str | Path, images: str) -> None:
        """Write down where the cohort lies now; at the same place this changes nothing.

        Args:
            cohort: Its folder.
            images: SHA-256 of its images and their split.

        Raises:
            RunError: It is another cohort.
        """
        place = relative_place(cohort, self.path)
        before = self.content.images
        if before != images if before else self.content.cohort != place:
            raise RunError(
                f"{self.path} must stay on the images and the split it was begun with, and {cohort}"
                " has others; give the cohort of the study, or choose a new folder."
            )
        if (before, self.content.cohort) != (images, place):
            update = {"cohort": place, "images": images}
            self._write(self.content.model_copy(update=update))

    def add_initialisation(
        self,
        name: str,
        kind: Literal["run", "file", "imagenet", "random", "supervised", "raw_pixels"],
        *,
        method: str = "",
        run: str | Path | None = None,
        file: str | Path | None = None,
        weights: str = "",
    ) -> Initialisation:
        """Name an initialisation; the same content again changes nothing.

        Args:
            name: Short name, the same in all tables and figures.
            kind: See `Initialisation.kind`.
            method: Registry name of the pre-training method.
            run: Folder of the pre-training run.
            file: File of weights, if they come from no run.
            weights: SHA-256 of the file of weights; it is added to a record that lacks it.

        Raises:
            RunError: The name is taken by a different initialisation.
        """
        new = Initialisation(
            name=name,
            kind=kind,
            method=method,
            run=relative_place(run, self.path) if run is not None else "",
            file=relative_place(file, self.path) if file is not None else "",
            weights=weights,
        )
        known = {one.name: one for one in self.content.initialisations}
        before = known.get(name, new)
        # where a file lies does not matter, as long as it holds the same weights
        same = {"weights": before.weights or weights, "file": new.file}
        if before.model_copy(update=same) != new:
            raise RunError(
                f"{self.path}: initialisation {name!r} must stay what it was, but"
                f" {_difference(before, new)}; give the other one its own name, as NAME=PATH or"
                " with --set name=NAME, or choose a new folder."
            )
        if known.get(name) != new:
            known[name] = new
            update = {"initialisations": tuple(known.values())}
            self._write(self.content.model_copy(update=update))
        return new

    def add_call(self, initialisations: Sequence[str], settings: Mapping[str, Any]) -> None:
        """Write down what is asked for; the same again changes nothing."""
        call = StudyCall(initialisations=tuple(initialisations), settings=dict(settings))
        if call not in self.content.calls:
            self._write(self.content.model_copy(update={"calls": (*self.content.calls, call)}))

    def add_run(
        self, *, initialisation: str, method: str, fraction: float, seed: int, fold: int = -1
    ) -> tuple[StudyRun, Path]:
        """Name the folder of a run and write it into study.json; the same place again is kept.

        Args:
            initialisation: Name of one of the study's initialisations.
            method: What is trained on the labels.
            fraction: Share of the labelled training patients, in (0, 1].
            seed: Seed of the label subset and of the training.
            fold: Cross-validation fold, -1 for a hold-out split.

        Returns:
            The entry and the absolute folder, for `RunFolder.create` or, after a stop, `.open`.
        """
        self.initialisation(initialisation)
        parts = [initialisation, method, f"{fraction:g}", f"seed{seed}"]
        name = "-".join(parts + ([f"fold{fold}"] if fold >= 0 else []))
        entry = StudyRun(
            path=f"runs/{_safe(name)}",
            initialisation=initialisation,
            method=method,
            fraction=fraction,
            seed=seed,
            fold=fold,
        )
        if entry not in self.content.runs:
            self._write(self.content.model_copy(update={"runs": (*self.content.runs, entry)}))
        return entry, self.path / entry.path

    def add_details(self, **details: Any) -> None:
        """Add plain values for the page, see `StudyContent.details`."""
        merged = {**self.content.details, **details}
        self._write(self.content.model_copy(update={"details": merged}))

    def runs(self) -> Iterator[tuple[StudyRun, RunFolder]]:
        """Open the runs that exist, in the order of study.json."""
        for entry in self.content.runs:
            if (self.path / entry.path / "config.json").is_file():
                yield entry, RunFolder.open(self.path / entry.path)

    def missing(self) -> list[StudyRun]:
        """Entries whose run has not been started or has not finished."""
        started = {entry.path: run.finished for entry, run in self.runs()}
        return [entry for entry in self.content.runs if not started.get(entry.path, False)]

    def _write(self, content: StudyContent) -> None:
        write_json(
            self.path / "study.json",
            content.model_dump(mode="json"),
            schema="study",
            version=VERSIONS["study"],
        )
        self.content = content


def _difference(before: Initialisation, now: Initialisation) -> str:
    if (before.kind, before.method, before.run) == (now.kind, now.method, now.run):
        return "its weights are others than those it was begun with"
    pairs = [f"{one.kind} {one.run or one.method}".strip() for one in (before, now)]
    return f"it was {pairs[0]} and is now {pairs[1]}"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
