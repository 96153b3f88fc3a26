"""Scores other than AUC: of every run over test patients, and of every arm over seeds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from scoutview.results.collect import ComparedRun
from scoutview.results.display import MISSING, DisplayTable, aligned, number, percent
from scoutview.stats.estimate import Estimate, joined
from scoutview.stats.intervals import t_interval
from scoutview.stats.scores import MACRO, ScoreTable, score_table

REPLICATES: Final = 200
"""Bootstrap draws: fewer than for AUC, because eight scores of every run are drawn."""

SHOWN: Final = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "average precision",
    "sensitivity_at_0.9": "sensitivity at specificity 0.9",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "calibration error",
}
"""Scores and their words, in the order of the columns."""

RANGE: Final = (0.0, 1.0)
"""Of each of them."""

_CELL: Final = ["arm", "fraction", "label", "metric"]


def run_scores(runs: Sequence[ComparedRun], *, replicates: int = REPLICATES) -> pd.DataFrame:
    """Score every run, with bootstrap intervals over its test patients.

    Args:
        runs: The compared runs.
        replicates: Bootstrap draws of test patients, the same for all runs.

    Returns:
        One row per run, label ("macro" is the average over labels) and score.
    """
    rows = []
    for run in runs:
        for row in _scored(run, replicates).rows:
            if row.metric in SHOWN:
                found = row.estimate
                rows.append(
                    {
                        "arm": run.arm,
                        "fraction": run.entry.fraction,
                        "seed": run.entry.seed,
                        "fold": run.entry.fold,
                        "label": row.label,
                        "metric": row.metric,
                        "value": found.value,
                        "low": found.low,
                        "high": found.high,
                        "interval": found.method,
                        "note": found.note,
                        "run": run.folder.name,
                    }
                )
    return pd.DataFrame(rows)


def _scored(run: ComparedRun, replicates: int) -> ScoreTable:
    wide = run.test.pivot(index=["image_id", "patient_id"], columns="label")
    labels = list(dict.fromkeys(run.test["label"]))
    # the classes of one label are named "label=class", see `tasks.targets.Targets`
    of_one = len(labels) > 1 and len({name.partition("=")[0] for name in labels}) == 1
    return score_table(
        wide["target"][labels].to_numpy(),
        wide["score"][labels].to_numpy(),
        wide.index.get_level_values("patient_id").to_numpy(),
        labels,
        kind="classes" if of_one else "labels",
        replicates=replicates,
    )


def mean_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Average scores over seeds, with the t-interval where there are several.

    Args:
        runs: What `run_scores` returned.

    Returns:
        One row per arm, fraction, label and score. One seed keeps the interval over patients; one
        seed of several folds has the interval over folds.
    """
    rows = []
    for place, group in runs.groupby(_CELL, sort=False):
        found = _mean(group)
        rows.append(
            dict(zip(_CELL, place, strict=True))
            | {
                "seeds": group["seed"].nunique(),
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "interval": found.method,
                "note": found.note,
            }
        )
    return pd.DataFrame(rows)


def _mean(group: pd.DataFrame) -> Estimate:
    seeds = group.groupby("seed")["value"].mean()
    if len(seeds) > 1:
        return t_interval(seeds.to_numpy(), bounds=RANGE)
    if len(group) > 1:
        over = t_interval(group["value"].to_numpy(), bounds=RANGE)
        note = joined("folds share training patients: the interval is too narrow", over.note)
        return replace(over, method=over.method.replace("seeds", "folds"), note=note)
    one = group.iloc[0]
    return Estimate(one["value"], one["low"], one["high"], 1, one["interval"], one["note"])


def score_display(means: pd.DataFrame) -> DisplayTable:
    """Show the scores of every arm and label fraction, averaged over labels if there are several.

    Args:
        means: What `mean_scores` returned.
    """
    macro = means[means["label"] == MACRO]
    shown = macro if len(macro) else means
    rows = []
    for (fraction, arm), group in shown.groupby(["fraction", "arm"], sort=False):
        found = {str(row["metric"]): row for _, row in group.iterrows()}
        cells = [_cell(found[key]) if key in found else MISSING for key in SHOWN]
        rows.append((str(arm), percent(float(str(fraction))), *cells))
    columns = ("initialisation", "labels", *SHOWN.values())
    return DisplayTable(
        name="scores",
        caption=(
            "Scores of the test set, mean over seeds with the 95 % t-interval; b marks one seed,"
            f" with a bootstrap interval over test patients ({REPLICATES} draws). Accuracy,"
            " balanced accuracy and F1 call an image positive at a probability of 0.5; with"
            " several classes accuracy takes the most probable one. Every run stands in"
            " run_scores.csv."
        ),
        columns=columns,
        align=aligned(len(columns)),
        rows=tuple(rows),
    )


def _cell(row: pd.Series) -> str:
    if np.isnan(row["low"]):
        return number(row["value"])
    mark = " b" if str(row["interval"]).startswith("bootstrap") else ""
    return f"{number(row['value'])} ({number(row['low'])} to {number(row['high'])}{mark})"
