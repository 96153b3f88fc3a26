"""AUC of every run, bootstrapped on the same draws of test patients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scoutview.base.errors import DataError
from scoutview.results.collect import ComparedRun
from scoutview.stats.intervals import Replicates, bootstrap_replicates
from scoutview.stats.ranking import Ranking

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredRun:
    """One run, its score and the bootstrap draws of its score."""

    run: ComparedRun
    value: float
    """Macro AUC over the labels that can be averaged."""
    draws: Floats
    """Macro AUC of each bootstrap draw, (R,); draw r is the same patients in every run."""
    per_label: tuple[Replicates, ...]


@dataclass(frozen=True)
class Scored:
    """All runs, bootstrapped on the same draws of test patients."""

    runs: tuple[ScoredRun, ...]
    labels: tuple[str, ...]
    one_class: dict[str, str]
    """Labels that are reported and not averaged, with the reason."""

    def at(self, arm: str, fraction: float) -> list[ScoredRun]:
        """Runs of one arm at one label fraction."""
        return [s for s in self.runs if (s.run.arm, s.run.entry.fraction) == (arm, fraction)]

    @classmethod
    def of(cls, runs: Sequence[ComparedRun], replicates: int) -> Self:
        """Score and bootstrap all runs.

        Args:
            runs: The compared runs.
            replicates: Bootstrap draws of test patients.

        Raises:
            DataError: No label has both classes in every test set.
        """
        tests = [run.test for run in runs]
        labels, one_class = _usable_labels(tests)
        images = pd.concat([t[["image_id", "patient_id"]] for t in tests]).drop_duplicates()
        row_of = pd.Series(np.arange(len(images)), index=images["image_id"])
        statistics, places = [], []
        for k, test in enumerate(tests):
            for label in labels:
                part = test[test["label"] == label]
                rows = row_of[part["image_id"]].to_numpy()
                ranking = Ranking.of(part["target"].to_numpy(), part["score"].to_numpy())
                statistics.append(_WeightedAuc(ranking, rows))
                places.append(k)
        drawn = bootstrap_replicates(statistics, images["patient_id"], replicates=replicates)
        size = len(labels)
        scored = []
        for k, run in enumerate(runs):
            own = tuple(drawn[k * size : (k + 1) * size])
            value = float(np.mean([r.value for r in own]))
            scored.append(ScoredRun(run, value, np.mean([r.replicates for r in own], axis=0), own))
        return cls(tuple(scored), labels, one_class)


class _WeightedAuc:
    """AUC of one run and label from the weights of all test images."""

    def __init__(self, ranking: Ranking, rows: NDArray[np.int64]) -> None:
        self.ranking, self.rows = ranking, rows

    def __call__(self, weights: Floats | None) -> float:
        return self.ranking.auc(None if weights is None else weights[self.rows])


def _usable_labels(tests: Sequence[pd.DataFrame]) -> tuple[tuple[str, ...], dict[str, str]]:
    one_class: dict[str, str] = {}
    order = list(dict.fromkeys(label for test in tests for label in test["label"]))
    for test in tests:
        for label in order:
            part = test[test["label"] == label]
            reason = Ranking.of(part["target"].to_numpy(), part["score"].to_numpy()).one_class
            if reason:
                one_class[label] = reason
    usable = tuple(label for label in order if label not in one_class)
    if not usable:
        raise DataError(
            "No label has positive and negative test images in every run, so no AUC exists: "
            + "; ".join(f"{label}: {why}" for label, why in one_class.items())
        )
    return usable, one_class


def by_seed(runs: Sequence[ScoredRun]) -> dict[int, float]:
    """Mean over folds of each seed, by ascending seed."""
    seeds = sorted({s.run.entry.seed for s in runs})
    return {
        seed: float(np.mean([s.value for s in runs if s.run.entry.seed == seed])) for seed in seeds
    }


def validation_score(runs: Sequence[ScoredRun], labels: Sequence[str]) -> float:
    """Mean macro AUC on the validation split, NaN if a run did not predict it."""
    values = []
    for s in runs:
        table = s.run.predictions
        for label in labels:
            part = table[(table["split"] == "val") & (table["label"] == label)]
            values.append(Ranking.of(part["target"].to_numpy(), part["score"].to_numpy()).auc())
    return float(np.mean(values))


def patient_groups(table: pd.DataFrame) -> NDArray[np.object_] | None:
    """Patients where one has several images; None where every image has its own patient."""
    if table["patient_id"].is_unique:
        return None
    return table["patient_id"].to_numpy(dtype=object)
