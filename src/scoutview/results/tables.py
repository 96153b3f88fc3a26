"""Runs to tidy tables: how good each arm is, how sure that is, and who differs from whom."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

import numpy as np
import pandas as pd

from scoutview.base.errors import DataError
from scoutview.results.collect import Arm, Collection
from scoutview.results.notes import make_notes
from scoutview.results.pairs import Pair, compare_pairs
from scoutview.results.scoring import Scored, by_seed, patient_groups, validation_score
from scoutview.stats.delong import auc_interval
from scoutview.stats.estimate import Estimate, joined
from scoutview.stats.intervals import Replicates, percentile_interval, t_interval

REPLICATES: Final = 1000
RANGE: Final = (0.0, 1.0)
"""Of an AUC."""


@dataclass(frozen=True)
class Cell:
    """One arm at one label fraction."""

    arm: str
    fraction: float
    seeds: tuple[int, ...]
    scores: tuple[float, ...]
    """Macro AUC of each seed, mean over folds."""
    over_seeds: Estimate
    """Mean with the t-interval over seeds (over folds if there is one seed)."""
    over_patients: Estimate
    """Mean with the bootstrap interval over test patients."""
    validation: float
    """Mean macro AUC on the validation split, NaN if it was not predicted."""
    train_images: tuple[int, ...]
    """Images that its runs learnt from, by run; those that do not say are left out."""


@dataclass(frozen=True)
class Tables:
    """All that the statistics of a comparison say."""

    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]
    runs: pd.DataFrame
    """One row per run and label: AUC with bootstrap and DeLong interval."""
    labels: tuple[str, ...]
    """Labels that are averaged."""
    notes: tuple[str, ...]
    reference: str
    """The arm that others must beat; "" if there is none."""
    headline_fraction: float
    best: str
    """The best pre-trained arm (of all arms, if none is) at the headline fraction."""
    best_by: Literal["validation", "test"]
    """Where `best` was chosen."""
    test_images: int
    test_patients: int | None
    """None if the source does not name patients."""

    def cell(self, arm: str, fraction: float) -> Cell | None:
        """Look one cell up; None if that part of the grid was not run."""
        return next((c for c in self.cells if (c.arm, c.fraction) == (arm, fraction)), None)

    def pair(self, a: str, b: str, fraction: float) -> Pair | None:
        """Look one comparison up, seen from a; None if there is none."""
        for pair in self.pairs:
            if (pair.a, pair.b, pair.fraction) == (a, b, fraction):
                return pair
            if (pair.b, pair.a, pair.fraction) == (a, b, fraction):
                return pair.turned()
        return None

    def summary(self) -> pd.DataFrame:
        """One row per arm and fraction."""
        return pd.DataFrame(
            {
                "arm": c.arm,
                "fraction": c.fraction,
                "seeds": len(c.seeds),
                "auc": c.over_seeds.value,
                "seed_low": c.over_seeds.low,
                "seed_high": c.over_seeds.high,
                "sd_over_seeds": np.std(c.scores, ddof=1) if len(c.scores) > 1 else math.nan,
                "patient_low": c.over_patients.low,
                "patient_high": c.over_patients.high,
                "validation_auc": c.validation,
                "seed_interval": c.over_seeds.method,
                "patient_interval": c.over_patients.method,
            }
            for c in self.cells
        )

    def comparisons(self) -> pd.DataFrame:
        """One row per pair of arms and fraction."""
        rows = []
        for pair in self.pairs:
            row: dict[str, object] = {
                "a": pair.a,
                "b": pair.b,
                "fraction": pair.fraction,
                "family": pair.family,
                "verdict": pair.verdict,
                "decided_by": pair.primary,
                "p_holm": pair.p_holm,
            }
            for name in ("t", "bootstrap", "delong", "wilcoxon"):
                test = asdict(getattr(pair, name))
                row |= {f"{name}_{key}": value for key, value in test.items() if key != "test"}
            rows.append(row)
        return pd.DataFrame(rows)


def compare_tables(
    collection: Collection,
    *,
    reference: str | None = None,
    headline_fraction: float | None = None,
    patient_ids_known: bool | None = None,
    replicates: int = REPLICATES,
) -> Tables:
    """Compute every table of a comparison.

    Args:
        collection: What `collect` returned.
        reference: The arm that the others must beat; by default the random initialisation.
        headline_fraction: Label fraction of the headline; by default the one nearest to 10 %.
        patient_ids_known: What the cohort says; by default guessed from the predictions.
        replicates: Bootstrap draws of test patients.

    Raises:
        DataError: No label has both classes in the test set, or a name is unknown.
    """
    scored = Scored.of(collection.runs, replicates)
    reference = _reference(collection.arms, reference)
    headline = _headline_fraction(collection.fractions, headline_fraction)
    cells = [
        _cell(scored, arm.name, fraction)
        for fraction in collection.fractions
        for arm in collection.arms
        if scored.at(arm.name, fraction)
    ]
    pairs = [
        pair
        for fraction in collection.fractions
        for pair in compare_pairs(scored, collection.arms, reference, fraction)
    ]
    tests = pd.concat([run.test for run in collection.runs])
    if patient_ids_known is None:
        patient_ids_known = bool((tests["patient_id"] != tests["image_id"]).any())
    best, best_by = _best(cells, collection.arms, headline)
    return Tables(
        cells=tuple(cells),
        pairs=tuple(pairs),
        runs=_run_table(scored),
        labels=scored.labels,
        notes=tuple(make_notes(collection, scored, cells, best_by, patient_ids_known)),
        reference=reference,
        headline_fraction=headline,
        best=best,
        best_by=best_by,
        test_images=tests["image_id"].nunique(),
        test_patients=tests["patient_id"].nunique() if patient_ids_known else None,
    )


def _cell(scored: Scored, arm: str, fraction: float) -> Cell:
    runs = scored.at(arm, fraction)
    seeds = by_seed(runs)
    over_seeds = t_interval(list(seeds.values()), bounds=RANGE)
    folds = {s.run.entry.fold for s in runs}
    if len(seeds) == 1 and len(folds) > 1:
        estimate = t_interval([s.value for s in runs], bounds=RANGE)
        over_seeds = replace(
            estimate,
            method=estimate.method.replace("seeds", "folds"),
            note=joined("folds share training patients: the interval is too narrow", estimate.note),
        )
    replicates = Replicates(
        float(np.mean([s.value for s in runs])), np.mean([s.draws for s in runs], axis=0)
    )
    patients = len({p for s in runs for p in s.run.test["patient_id"]})
    return Cell(
        arm=arm,
        fraction=fraction,
        seeds=tuple(seeds),
        scores=tuple(seeds.values()),
        over_seeds=over_seeds,
        over_patients=percentile_interval(replicates, n=patients),
        validation=validation_score(runs, scored.labels),
        train_images=tuple(s.run.train_images for s in runs if s.run.train_images is not None),
    )


def _run_table(scored: Scored) -> pd.DataFrame:
    rows = []
    for s in scored.runs:
        test, entry = s.run.test, s.run.entry
        for label, result in zip(scored.labels, s.per_label, strict=True):
            part = test[test["label"] == label]
            target, score = part["target"].to_numpy(), part["score"].to_numpy()
            drawn = percentile_interval(result, n=int((~np.isnan(target)).sum()))
            exact = auc_interval(target, score, patient_groups(part))
            rows.append(
                {
                    "arm": s.run.arm,
                    "fraction": entry.fraction,
                    "seed": entry.seed,
                    "fold": entry.fold,
                    "label": label,
                    "images": drawn.n,
                    "positives": int((target == 1).sum()),
                    "auc": drawn.value,
                    "bootstrap_low": drawn.low,
                    "bootstrap_high": drawn.high,
                    "delong_low": exact.low,
                    "delong_high": exact.high,
                    "epoch_choice": s.run.epoch_choice or "not stated",
                    "note": joined(drawn.note, exact.note),
                    "run": s.run.folder.name,
                }
            )
    return pd.DataFrame(rows)


def _reference(arms: Sequence[Arm], name: str | None) -> str:
    names = [arm.name for arm in arms]
    if name is not None:
        if name not in names:
            raise DataError(f"No arm {name!r} to compare with; there are: {', '.join(names)}.")
        return name
    return next((arm.name for arm in arms if arm.initialisation.kind == "random"), "")


def _headline_fraction(fractions: Sequence[float], wanted: float | None) -> float:
    if wanted is None:
        return min(fractions, key=lambda fraction: abs(math.log(fraction / 0.1)))
    if wanted not in fractions:
        raise DataError(f"No run at label fraction {wanted:g}; there are {list(fractions)}.")
    return wanted


def _best(
    cells: Sequence[Cell], arms: Sequence[Arm], fraction: float
) -> tuple[str, Literal["validation", "test"]]:
    here = [cell for cell in cells if cell.fraction == fraction]
    pretrained = {arm.name for arm in arms if arm.pretrained}
    chosen = [cell for cell in here if cell.arm in pretrained] or here
    if all(not math.isnan(cell.validation) for cell in chosen):
        return max(chosen, key=lambda cell: cell.validation).arm, "validation"
    return max(chosen, key=lambda cell: cell.over_seeds.value).arm, "test"
