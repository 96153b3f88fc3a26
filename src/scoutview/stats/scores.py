"""All scores of one set of predictions, each with an interval and with what a reader must know."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scoutview.base.errors import DataError
from scoutview.stats.calibration import brier, calibration_line, expected_calibration_error
from scoutview.stats.decisions import Calls, ClassCalls
from scoutview.stats.delong import auc_interval
from scoutview.stats.estimate import Estimate, not_computable
from scoutview.stats.intervals import (
    Replicates,
    Statistic,
    bootstrap_replicates,
    percentile_interval,
)
from scoutview.stats.ranking import Ranking

Floats = NDArray[np.float64]
MACRO = "macro"
"""Name of the row that averages over labels."""


@dataclass(frozen=True)
class LabelScore:
    """One score of one label."""

    label: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one set of predictions."""

    rows: tuple[LabelScore, ...]
    left_out: tuple[str, ...]
    """Labels with one class only: reported as not computable, not part of the macro average."""

    def get(self, label: str, metric: str) -> Estimate:
        """Look one score up.

        Raises:
            DataError: There is no such score.
        """
        for row in self.rows:
            if (row.label, row.metric) == (label, metric):
                return row.estimate
        raise DataError(f"No score {metric!r} for label {label!r} in this table.")


def score_table(
    targets: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike,
    labels: list[str],
    *,
    kind: Literal["labels", "classes"] = "labels",
    threshold: float = 0.5,
    specificity: float = 0.9,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> ScoreTable:
    """Score predictions.

    Args:
        targets: 1, 0 or NaN (dropped per label), (N, L).
        scores: Probabilities in [0, 1], (N, L).
        patients: Patient of each row, (N,): the unit of the bootstrap.
        labels: Names of the L columns.
        kind: "labels": columns are labels of their own (binary, multi-label); "classes": columns
            are the classes of one label, one-hot, which adds accuracy at the largest score.
        threshold: Where accuracy, balanced accuracy and F1 call a row positive.
        specificity: Of the sensitivity that is reported.
        replicates: Bootstrap draws of patients.
        level: Coverage of the intervals, in (0, 1).
        seed: Of the bootstrap; the same draws for every label and model.

    Returns:
        Rows per label, then the macro rows if there is more than one label.

    Raises:
        DataError: Shapes do not fit, or targets are not 0, 1 or NaN.
    """
    y, s = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    groups = np.asarray(patients)
    if y.shape != s.shape or y.ndim != 2 or y.shape != (len(groups), len(labels)):
        raise DataError(
            "Targets and scores must be (rows, labels), got"
            f" {y.shape} and {s.shape} for {len(groups)} rows and {len(labels)} labels."
        )
    rankings = [Ranking.of(y[:, k], s[:, k]) for k in range(len(labels))]
    left_out = tuple(name for name, r in zip(labels, rankings, strict=True) if r.one_class)
    statistics: dict[tuple[str, str], Statistic] = {}
    for k, name in enumerate(labels):
        if rankings[k].one_class:
            continue
        for metric, one in _statistics(y[:, k], s[:, k], rankings[k], threshold, specificity):
            statistics[name, metric] = one
    if kind == "classes":
        statistics.update(_class_statistics(y, s))
    drawn = _draw(statistics, groups, replicates, seed)
    rows: list[LabelScore] = []
    for k, name in enumerate(labels):
        rows += _label_rows(name, y[:, k], s[:, k], groups, rankings[k], drawn, level)
    n = int((~np.isnan(y)).any(axis=1).sum())
    rows += _macro_rows(labels, left_out, drawn, n, level)
    return ScoreTable(tuple(rows), left_out)


def _statistics(
    y: Floats, s: Floats, ranking: Ranking, threshold: float, specificity: float
) -> list[tuple[str, Statistic]]:
    calls = Calls.of(y, s, threshold)
    return [
        ("auc", ranking.auc),
        ("average_precision", ranking.average_precision),
        (f"sensitivity_at_{specificity:g}", lambda w: ranking.sensitivity_at(specificity, w)),
        ("accuracy", calls.accuracy),
        ("balanced_accuracy", calls.balanced_accuracy),
        ("f1", calls.f1),
        ("brier", lambda w: brier(y, s, w)),
        ("ece", lambda w: expected_calibration_error(y, s, weights=w)),
    ]


def _class_statistics(y: Floats, s: Floats) -> dict[tuple[str, str], Statistic]:
    known = ~np.isnan(y).any(axis=1)
    if not (y[known].sum(axis=1) == 1).all():
        raise DataError("Every row must belong to exactly one class, or to none known.")
    calls = ClassCalls.of(np.where(known, np.nan_to_num(y).argmax(axis=1), -1), s)
    return {
        (MACRO, "accuracy"): calls.accuracy,
        (MACRO, "balanced_accuracy"): calls.balanced_accuracy,
    }


def _draw(
    statistics: dict[tuple[str, str], Statistic],
    groups: NDArray[np.generic],
    replicates: int,
    seed: int,
) -> dict[tuple[str, str], Replicates]:
    if len(np.unique(groups)) < 2:
        nothing = np.full(replicates, np.nan)
        return {key: Replicates(one(None), nothing) for key, one in statistics.items()}
    drawn = bootstrap_replicates(
        list(statistics.values()), groups, replicates=replicates, seed=seed
    )
    return dict(zip(statistics, drawn, strict=True))


def _label_rows(
    name: str,
    y: Floats,
    s: Floats,
    groups: NDArray[np.generic],
    ranking: Ranking,
    drawn: dict[tuple[str, str], Replicates],
    level: float,
) -> list[LabelScore]:
    n = len(ranking.order)
    if ranking.one_class:
        why = not_computable(
            f"{ranking.one_class}: not computable",
            n=n,
            method="none",
            dropped=ranking.dropped,
        )
        return [LabelScore(name, "auc", why)]
    repeated = len(np.unique(groups)) < len(groups)
    area = auc_interval(y, s, groups if repeated else None, level=level)
    rows = [LabelScore(name, "auc", area)]
    for (label, metric), result in drawn.items():
        if label != name:
            continue
        shown = "auc_bootstrap" if metric == "auc" else metric
        estimate = percentile_interval(result, n=n, level=level, dropped=ranking.dropped)
        rows.append(LabelScore(name, shown, estimate))
    line = calibration_line(y, s)
    for metric, value in (
        ("calibration_slope", line.slope),
        ("calibration_intercept", line.intercept),
    ):
        bare = Estimate(
            value, math.nan, math.nan, n, "maximum likelihood", line.note, ranking.dropped
        )
        rows.append(LabelScore(name, metric, bare))
    return rows


def _macro_rows(
    labels: list[str],
    left_out: tuple[str, ...],
    drawn: dict[tuple[str, str], Replicates],
    n: int,
    level: float,
) -> list[LabelScore]:
    if len(labels) == 1:
        return []
    kept = [name for name in labels if name not in left_out]
    rows = []
    if not kept:
        why = not_computable("no label has both classes", n=n, method="none")
        return [LabelScore(MACRO, "auc", why)]
    note = f"over {len(kept)} of {len(labels)} labels; left out: {', '.join(left_out)}"
    metrics = [metric for label, metric in drawn if label == kept[0]]
    for metric in metrics:
        if (MACRO, metric) in drawn:
            continue
        parts = [drawn[name, metric] for name in kept]
        # a replicate that lacks a class of one label is no macro average and is left out
        mean = Replicates(
            float(np.mean([part.value for part in parts])),
            np.mean([part.replicates for part in parts], axis=0),
        )
        rows.append(_macro_row(metric, mean, note if left_out else "", n, level))
    rows += [
        _macro_row(metric, result, "", n, level)
        for (label, metric), result in drawn.items()
        if label == MACRO
    ]
    return rows


def _macro_row(metric: str, result: Replicates, note: str, n: int, level: float) -> LabelScore:
    found = percentile_interval(result, n=n, level=level)
    notes = "; ".join(part for part in (note, found.note) if part)
    return LabelScore(
        MACRO, metric, Estimate(found.value, found.low, found.high, n, found.method, notes)
    )
