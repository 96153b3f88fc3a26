"""Gather the runs to be compared, and refuse what would make a comparison dishonest."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scoutview.base.errors import DataError, RunError
from scoutview.results.run import RunFolder
from scoutview.results.study import Initialisation, Study, StudyRun

logger = logging.getLogger(__name__)

BASELINES = ("random", "supervised", "raw_pixels")
"""Kinds of initialisation that had no pre-training."""


@dataclass(frozen=True)
class Arm:
    """What is compared: an initialisation and what was trained on the labels from it."""

    name: str
    """As in tables and figures."""
    initialisation: Initialisation
    method: str

    @property
    def pretrained(self) -> bool:
        """Whether there was any pre-training."""
        return self.initialisation.kind not in BASELINES


@dataclass(frozen=True)
class ComparedRun:
    """One finished run and its predictions."""

    arm: str
    """Name of its arm."""
    entry: StudyRun
    folder: RunFolder
    predictions: pd.DataFrame
    """All splits."""
    summary: dict[str, Any]
    """Empty for an unfinished run."""

    @property
    def test(self) -> pd.DataFrame:
        """Predictions of the test split, ordered by label and image."""
        chosen = self.predictions[self.predictions["split"] == "test"]
        return chosen.sort_values(["label", "image_id"], ignore_index=True)

    @property
    def epoch_choice(self) -> str:
        """Which epoch was tested: "last", "validation", "none" (no epochs), "" if not stated."""
        # up to 0.1, classifiers without epochs said "validation" for the choice of their setting
        return "none" if "chosen_by" in self.summary else str(self.summary.get("epoch_choice", ""))

    @property
    def train_images(self) -> int | None:
        """Number of images that it learnt from, None if it does not say."""
        count = self.folder.config.get("images", {}).get("train")
        return None if count is None else int(count)


@dataclass(frozen=True)
class Collection:
    """Everything that one comparison looks at."""

    arms: tuple[Arm, ...]
    runs: tuple[ComparedRun, ...]
    studies: tuple[Study, ...]
    title: str
    notes: tuple[str, ...] = field(default_factory=tuple)

    def arm(self, name: str) -> Arm:
        """Look an arm up by name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def fractions(self) -> list[float]:
        """Label fractions, ascending."""
        return sorted({run.entry.fraction for run in self.runs})


def collect(
    paths: Sequence[str | Path], *, allow_unfinished: bool = False, count_copies_once: bool = False
) -> Collection:
    """Open studies and single runs and check that they can be compared.

    Args:
        paths: Folders of studies or runs.
        allow_unfinished: Compare runs that have predictions but did not finish; the page says so.
        count_copies_once: Keep one of several runs of an arm that predict the same to the last bit
            (a deterministic probe on all labels); the page says so.

    Raises:
        RunError: A folder holds neither, or a run did not finish.
        DataError: Two runs share arm, fraction, fold and seed, or predict the same to the last bit,
            or predict other test images than the rest, or learnt from other training images at the
            same fraction, fold and seed.
    """
    found: list[tuple[Initialisation, StudyRun, RunFolder]] = []
    studies: list[Study] = []
    for path in map(Path, paths):
        if (path / "study.json").is_file():
            studies.append(Study.open(path))
            found += _of_study(studies[-1], allow_unfinished)
        else:
            found.append(_of_run(RunFolder.open(path)))
    if not found:
        raise RunError(f"{', '.join(map(str, paths))}: no run to compare; train some first.")
    notes: list[str] = []
    unfinished = [run.name for _, _, run in found if not run.finished]
    if unfinished and not allow_unfinished:
        raise RunError(
            f"{len(unfinished)} runs have not finished: {', '.join(unfinished[:5])}; resume them,"
            " leave them out, or ask for unfinished runs to be compared."
        )
    if unfinished:
        notes.append(f"{len(unfinished)} runs had not finished: {', '.join(unfinished)}.")
    arms = _arms([(initialisation, entry) for initialisation, entry, _ in found])
    runs = [
        ComparedRun(
            arm=arms[initialisation.name, entry.method].name,
            entry=entry,
            folder=folder,
            predictions=folder.predictions(),
            summary=folder.summary() if folder.finished else {},
        )
        for initialisation, entry, folder in found
    ]
    _refuse_equal_seeds(runs)
    runs, copies = _without_copies(runs, count_copies_once)
    _refuse_other_images(runs)
    copies += _refuse_other_training(runs)
    title = next((s.content.title for s in studies if s.content.title), "") or "Comparison of runs"
    known = [note for study in studies for note in study.content.details.get("notes", [])]
    return Collection(
        arms=tuple(arms.values()),
        runs=tuple(runs),
        studies=tuple(studies),
        title=title,
        notes=tuple(dict.fromkeys([*notes, *copies, *known])),
    )


def _of_study(
    study: Study, allow_unfinished: bool
) -> list[tuple[Initialisation, StudyRun, RunFolder]]:
    missing = study.missing()
    if missing and not allow_unfinished:
        names = ", ".join(Path(entry.path).name for entry in missing[:5])
        raise RunError(
            f"{study.path}: {len(missing)} of {len(study.content.runs)} runs have not finished"
            f" ({names}); resume the study, or ask for unfinished runs to be compared."
        )
    return [
        (study.initialisation(entry.initialisation), entry, run)
        for entry, run in study.runs()
        if run.has_predictions
    ]


def _of_run(run: RunFolder) -> tuple[Initialisation, StudyRun, RunFolder]:
    """A run outside a study says in its configuration what it is."""
    config = run.config
    name = config.get("initialisation", run.name)
    if not isinstance(name, str):
        name = str(name.get("name", run.name))
    entry = StudyRun(
        path=run.name,
        initialisation=name,
        method=str(config.get("method", "unknown")),
        fraction=float(config.get("fraction", 1.0)),
        seed=int(config.get("seed", 0)),
        fold=int(config.get("fold", -1)),
    )
    kind = config.get("kind", "file")
    return Initialisation.build({"name": name, "kind": kind}), entry, run


def _arms(found: Sequence[tuple[Initialisation, StudyRun]]) -> dict[tuple[str, str], Arm]:
    known: dict[str, Initialisation] = {}
    for initialisation, _ in found:
        first = known.setdefault(initialisation.name, initialisation)
        same = (first.kind, first.method) == (initialisation.kind, initialisation.method)
        if not same or _other_file(first, initialisation):
            raise DataError(
                f"Initialisation {initialisation.name!r} means two things in the compared studies;"
                " give each its own name, as transfer --init NAME=PATH."
            )
    pairs = list(dict.fromkeys((entry.initialisation, entry.method) for _, entry in found))
    counts = pd.Series([name for name, _ in pairs]).value_counts()
    return {
        (name, method): Arm(
            name=name if counts[name] == 1 else f"{name}, {method.replace('_', ' ')}",
            initialisation=known[name],
            method=method,
        )
        for name, method in pairs
    }


def _other_file(one: Initialisation, other: Initialisation) -> bool:
    """Tell files of weights apart. Runs of a method may differ: they are repetitions of it."""
    known = one.kind == "file" and one.weights and other.weights
    return bool(known) and one.weights != other.weights


def _refuse_equal_seeds(runs: Sequence[ComparedRun]) -> None:
    seen: dict[tuple[str, float, int, int], str] = {}
    for run in runs:
        place = (run.arm, run.entry.fraction, run.entry.fold, run.entry.seed)
        if place in seen:
            raise DataError(
                f"{seen[place]} and {run.folder.name} are both {run.arm} at {run.entry.fraction:g}"
                f" of the labels with seed {run.entry.seed}; repetitions need different seeds:"
                " leave one out."
            )
        seen[place] = run.folder.name


def _without_copies(
    runs: Sequence[ComparedRun], count_once: bool
) -> tuple[list[ComparedRun], list[str]]:
    seen: dict[str, ComparedRun] = {}
    kept: list[ComparedRun] = []
    copies: dict[tuple[str, float], int] = {}
    for run in runs:
        first = seen.setdefault(_fingerprint(run.test), run)
        if first is run:
            kept.append(run)
            continue
        same_place = (first.arm, first.entry.fraction) == (run.arm, run.entry.fraction)
        if not (count_once and same_place):
            raise DataError(
                f"{first.folder.name} and {run.folder.name} predict the same to the last bit; they"
                " are one run, not two. Leave one out; for a deterministic probe on all labels,"
                " train one seed or ask for copies to be counted once."
            )
        place = (run.arm, run.entry.fraction)
        copies[place] = copies.get(place, 1) + 1
    notes = [
        f"{count} runs of {arm} at {100 * fraction:g} % of the labels predict the same to the last"
        " bit (nothing in them is random); they are counted as one."
        for (arm, fraction), count in copies.items()
    ]
    return kept, notes


def _fingerprint(table: pd.DataFrame) -> str:
    digest = hashlib.sha256(table["score"].to_numpy(dtype=np.float64).tobytes())
    digest.update(json.dumps(table[["label", "image_id"]].to_numpy().tolist()).encode())
    return digest.hexdigest()


def _refuse_other_images(runs: Sequence[ComparedRun]) -> None:
    first: dict[int, ComparedRun] = {}
    for run in runs:
        table = run.test
        if table.empty:
            raise DataError(f"{run.folder.name} has no predictions of the test split.")
        other = first.setdefault(run.entry.fold, run).test
        columns = ["label", "image_id", "target"]
        if not table[columns].equals(other[columns]):
            raise DataError(
                f"{run.folder.name} and {first[run.entry.fold].folder.name} were tested on"
                " different images or targets; runs can only be compared on the same test set."
            )


def _refuse_other_training(runs: Sequence[ComparedRun]) -> list[str]:
    """Compare the fingerprints of training images; return a note on runs that have none."""
    first: dict[tuple[float, int, int], ComparedRun] = {}
    unknown = 0
    for run in runs:
        digest = run.summary.get("train_images_sha256")
        if digest is None:
            unknown += 1
            continue
        place = (run.entry.fraction, run.entry.fold, run.entry.seed)
        other = first.setdefault(place, run)
        if digest != other.summary["train_images_sha256"]:
            raise DataError(
                f"{other.folder.name} and {run.folder.name} learnt from different training images"
                f" at {run.entry.fraction:g} of the labels with seed {run.entry.seed}; arms can"
                " only be compared on the same label subsets: repeat one with the other's settings."
            )
    if not unknown:
        return []
    return [
        f"{unknown} of {len(runs)} runs do not state which images they learnt from, so nobody"
        " checked that arms share their label subsets."
    ]
