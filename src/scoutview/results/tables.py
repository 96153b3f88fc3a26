"""Runs to tidy tables: how good each arm is, how sure that is, and who differs from whom."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from scoutview.base.errors import DataError
from scoutview.results.collect import Arm, Collection, ComparedRun
from scoutview.stats.comparison import holm, paired_t, shared_seeds, wilcoxon
from scoutview.stats.delong import auc_interval, delong
from scoutview.stats.estimate import Comparison, Estimate
from scoutview.stats.intervals import (
    Replicates,
    bootstrap_replicates,
    percentile_interval,
    t_interval,
)
from scoutview.stats.ranking import Ranking

Floats = NDArray[np.float64]

LEVEL: Final = 0.95
REPLICATES: Final = 1000
FEW_SEEDS: Final = 5
"""Below this, an interval over seeds says little about other seeds."""


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


@dataclass(frozen=True)
class Pair:
    """Two arms at one label fraction."""

    a: str
    b: str
    fraction: float
    family: str
    """Tests that are corrected together (Holm)."""
    t: Comparison
    p_holm: float
    bootstrap: Comparison
    delong: Comparison
    wilcoxon: Comparison
    alpha: float = 1 - LEVEL

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown", "not testable"]:
        """What the primary test (paired t over seeds, Holm) says of a against b."""
        if math.isnan(self.p_holm):
            return "not testable"
        if self.p_holm >= self.alpha:
            return "no difference shown"
        return "better" if self.t.difference > 0 else "worse"


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

    def cell(self, arm: str, fraction: float) -> Cell | None:
        """Look one cell up; None if that part of the grid was not run."""
        return next((c for c in self.cells if (c.arm, c.fraction) == (arm, fraction)), None)

    def pair(self, a: str, b: str, fraction: float) -> Pair | None:
        """Look one comparison up, in this order of arms; None if there is none."""
        return next((p for p in self.pairs if (p.a, p.b, p.fraction) == (a, b, fraction)), None)

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
    scored = _Scored.of(collection.runs, replicates)
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
        for pair in _pairs(scored, collection.arms, reference, fraction)
    ]
    best, best_by = _best(cells, collection.arms, headline)
    return Tables(
        cells=tuple(cells),
        pairs=tuple(pairs),
        runs=_run_table(scored),
        labels=scored.labels,
        notes=tuple(_notes(collection, scored, cells, best_by, patient_ids_known)),
        reference=reference,
        headline_fraction=headline,
        best=best,
        best_by=best_by,
    )


# -------------------------------------------------------------------- scores of runs


@dataclass(frozen=True)
class _ScoredRun:
    run: ComparedRun
    value: float
    """Macro AUC over the labels that can be averaged."""
    draws: Floats
    """Macro AUC of each bootstrap draw, (R,); draw r is the same patients in every run."""
    per_label: tuple[Replicates, ...]


@dataclass(frozen=True)
class _Scored:
    """All runs, bootstrapped on the same draws of test patients."""

    runs: tuple[_ScoredRun, ...]
    labels: tuple[str, ...]
    one_class: dict[str, str]
    """Labels that are reported and not averaged, with the reason."""

    def at(self, arm: str, fraction: float) -> list[_ScoredRun]:
        return [s for s in self.runs if (s.run.arm, s.run.entry.fraction) == (arm, fraction)]

    @classmethod
    def of(cls, runs: Sequence[ComparedRun], replicates: int) -> "_Scored":
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
                statistics.append(_weighted_auc(ranking, rows))
                places.append(k)
        drawn = bootstrap_replicates(statistics, images["patient_id"], replicates=replicates)
        size = len(labels)
        scored = []
        for k, run in enumerate(runs):
            own = tuple(drawn[k * size : (k + 1) * size])
            value = float(np.mean([r.value for r in own]))
            scored.append(_ScoredRun(run, value, np.mean([r.replicates for r in own], axis=0), own))
        return cls(tuple(scored), labels, one_class)


class _weighted_auc:  # noqa: N801 - used as a function
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


def _cell(scored: _Scored, arm: str, fraction: float) -> Cell:
    runs = scored.at(arm, fraction)
    by_seed = _by_seed(runs)
    over_seeds = t_interval(list(by_seed.values()))
    folds = {s.run.entry.fold for s in runs}
    if len(by_seed) == 1 and len(folds) > 1:
        estimate = t_interval([s.value for s in runs])
        over_seeds = Estimate(
            estimate.value,
            estimate.low,
            estimate.high,
            len(folds),
            estimate.method.replace("seeds", "folds"),
            "folds share training patients: the interval is too narrow",
        )
    replicates = Replicates(
        float(np.mean([s.value for s in runs])), np.mean([s.draws for s in runs], axis=0)
    )
    patients = len({p for s in runs for p in s.run.test["patient_id"]})
    return Cell(
        arm=arm,
        fraction=fraction,
        seeds=tuple(by_seed),
        scores=tuple(by_seed.values()),
        over_seeds=over_seeds,
        over_patients=percentile_interval(replicates, n=patients),
        validation=_validation_score(runs, scored.labels),
    )


def _by_seed(runs: Sequence[_ScoredRun]) -> dict[int, float]:
    """Mean over folds of each seed, by ascending seed."""
    seeds = sorted({s.run.entry.seed for s in runs})
    return {
        seed: float(np.mean([s.value for s in runs if s.run.entry.seed == seed])) for seed in seeds
    }


def _validation_score(runs: Sequence[_ScoredRun], labels: Sequence[str]) -> float:
    values = []
    for s in runs:
        table = s.run.predictions
        for label in labels:
            part = table[(table["split"] == "val") & (table["label"] == label)]
            values.append(Ranking.of(part["target"].to_numpy(), part["score"].to_numpy()).auc())
    return float(np.mean(values))


def _run_table(scored: _Scored) -> pd.DataFrame:
    rows = []
    for s in scored.runs:
        test, entry = s.run.test, s.run.entry
        for label, result in zip(scored.labels, s.per_label, strict=True):
            part = test[test["label"] == label]
            target, score = part["target"].to_numpy(), part["score"].to_numpy()
            drawn = percentile_interval(result, n=int((~np.isnan(target)).sum()))
            exact = auc_interval(target, score, _groups(part))
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
                    "epoch_choice": s.run.summary.get("epoch_choice", "not stated"),
                    "note": "; ".join(filter(None, [drawn.note, exact.note])),
                    "run": s.run.folder.name,
                }
            )
    return pd.DataFrame(rows)


def _groups(table: pd.DataFrame) -> NDArray[np.object_] | None:
    """Patients where one has several images; None where every image has its own patient."""
    if table["patient_id"].is_unique:
        return None
    return table["patient_id"].to_numpy(dtype=object)


# -------------------------------------------------------------------- pairs


def _pairs(scored: _Scored, arms: Sequence[Arm], reference: str, fraction: float) -> list[Pair]:
    present = [arm for arm in arms if scored.at(arm.name, fraction)]
    names = [arm.name for arm in present]
    first = [(arm.name, reference) for arm in present if arm.pretrained and reference in names]
    first = [(a, b) for a, b in first if a != b]
    ordered = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    rest = [(a, b) for a, b in ordered if (a, b) not in first and (b, a) not in first]
    against = [_pair(scored, a, b, fraction, f"pre-trained against {reference}") for a, b in first]
    others = [_pair(scored, a, b, fraction, "all other pairs") for a, b in rest]
    return [*_corrected(against), *_corrected(others)]


def _corrected(family: Sequence[Pair]) -> list[Pair]:
    adjusted = holm([pair.t.p for pair in family])
    return [
        Pair(**{**pair.__dict__, "p_holm": float(p)})
        for pair, p in zip(family, adjusted, strict=True)
    ]


def _pair(scored: _Scored, a: str, b: str, fraction: float, family: str) -> Pair:
    of_a, of_b = scored.at(a, fraction), scored.at(b, fraction)
    by_a, by_b = _by_seed(of_a), _by_seed(of_b)
    if by_a.keys() & by_b.keys():
        shared = shared_seeds(by_a, by_b)
        t, rank = paired_t(shared.a, shared.b), wilcoxon(shared.a, shared.b)
        t = _with_note(t, shared.note)
    else:
        nan = math.nan
        t = rank = Comparison(nan, nan, nan, nan, 0, "paired t over seeds", "no seed is shared")
    return Pair(
        a=a,
        b=b,
        fraction=fraction,
        family=family,
        t=t,
        p_holm=math.nan,
        bootstrap=_bootstrap_difference(of_a, of_b),
        delong=_delong_difference(of_a, of_b, scored.labels),
        wilcoxon=rank,
    )


def _with_note(test: Comparison, note: str) -> Comparison:
    joined = "; ".join(filter(None, [test.note, note]))
    return Comparison(**{**asdict(test), "note": joined})


def _bootstrap_difference(a: Sequence[_ScoredRun], b: Sequence[_ScoredRun]) -> Comparison:
    """Compare the mean AUC over seeds on the same draws of test patients."""
    difference = float(np.mean([s.value for s in a]) - np.mean([s.value for s in b]))
    draws = np.mean([s.draws for s in a], axis=0) - np.mean([s.draws for s in b], axis=0)
    usable = draws[~np.isnan(draws)]
    n = len({p for s in a for p in s.run.test["patient_id"]})
    test = f"paired bootstrap over patients, {len(draws)} replicates"
    if not len(usable):
        return Comparison(difference, math.nan, math.nan, math.nan, n, test, "a class is absent")
    low, high = np.quantile(usable, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    tail = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (1 + len(usable)))
    lost = len(draws) - len(usable)
    note = f"{lost} replicates lack a class" if lost else ""
    return Comparison(difference, float(low), float(high), p, n, test, note)


def _delong_difference(
    a: Sequence[_ScoredRun], b: Sequence[_ScoredRun], labels: Sequence[str]
) -> Comparison:
    """Compare the mean AUC over seeds with DeLong's covariance of all their score vectors.

    The mean of AUCs is a linear contrast of correlated AUCs, so its variance follows from their
    covariance. Folds have different patients: their variances add.
    """
    test = "paired DeLong of the mean over seeds"
    nan = math.nan
    if len(labels) > 1:
        note = "DeLong compares one label; with several, the bootstrap stands"
        return Comparison(nan, nan, nan, nan, 0, test, note)
    folds = sorted({s.run.entry.fold for s in a} & {s.run.entry.fold for s in b})
    differences, variances, rows = [], [], 0
    for fold in folds:
        of_a = [_label(s, labels[0]) for s in a if s.run.entry.fold == fold]
        of_b = [_label(s, labels[0]) for s in b if s.run.entry.fold == fold]
        contrast = np.array([1 / len(of_a)] * len(of_a) + [-1 / len(of_b)] * len(of_b))
        targets = of_a[0]["target"].to_numpy()
        try:
            result = delong(
                targets, np.stack([t["score"] for t in [*of_a, *of_b]]), _groups(of_a[0])
            )
        except DataError as error:
            return Comparison(nan, nan, nan, nan, len(targets), test, str(error))
        differences.append(float(contrast @ result.auc))
        variances.append(float(contrast @ result.covariance @ contrast))
        rows += result.positives + result.negatives
    difference = float(np.mean(differences))
    variance = sum(variances) / len(folds) ** 2
    if variance <= 1e-15:
        return Comparison(difference, nan, nan, nan, rows, test, "the difference has no variance")
    error_of_mean = math.sqrt(variance)
    half = float(norm.ppf(0.5 + LEVEL / 2)) * error_of_mean
    p = 2 * float(norm.sf(abs(difference) / error_of_mean))
    return Comparison(difference, difference - half, difference + half, p, rows, test)


def _label(s: _ScoredRun, label: str) -> pd.DataFrame:
    test = s.run.test
    return test[test["label"] == label]


# -------------------------------------------------------------------- choices and notes


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


def _notes(
    collection: Collection,
    scored: _Scored,
    cells: Sequence[Cell],
    best_by: str,
    patient_ids_known: bool | None,
) -> list[str]:
    notes = list(collection.notes)
    tests = pd.concat([run.test for run in collection.runs])
    if patient_ids_known is None:
        patient_ids_known = bool((tests["patient_id"] != tests["image_id"]).any())
    if not patient_ids_known:
        notes.append(
            "The source has no patient ids: every image counts as a patient, so intervals may be"
            " too narrow and images of one patient may lie on both sides of a split."
        )
    notes += [
        f"Label {label!r} has one class in a test set ({why}): reported, not averaged."
        for label, why in scored.one_class.items()
    ]
    notes += _seed_notes(cells)
    notes += _epoch_notes(collection.runs)
    if best_by == "test":
        notes.append(
            "Validation predictions are missing, so the best arm was picked by its test score,"
            " which flatters it."
        )
    return notes


def _seed_notes(cells: Sequence[Cell]) -> list[str]:
    notes = []
    counts = sorted({len(cell.seeds) for cell in cells})
    if counts[0] == 1:
        single = [f"{c.arm} at {100 * c.fraction:g} %" for c in cells if len(c.seeds) == 1]
        notes.append(
            "One seed only, so no interval over seeds and no t-test: " + ", ".join(single) + "."
        )
    few = [count for count in counts if 1 < count < FEW_SEEDS]
    if few:
        notes.append(
            f"Only {few[0]} seeds in places: intervals over seeds are wide and their normal"
            " assumption cannot be checked."
        )
    if counts[0] < 6:
        notes.append(
            "Wilcoxon's signed-rank test cannot reach p < .05 with fewer than 6 shared seeds"
            f" (smallest here: {counts[0]}); the paired t-test is used."
        )
    if any("folds" in cell.over_seeds.method for cell in cells):
        notes.append("Intervals over folds are too narrow, because folds share training patients.")
    return notes


def _epoch_notes(runs: Sequence[ComparedRun]) -> list[str]:
    words = {
        "last": "the last epoch",
        "validation": "the epoch chosen on validation",
        "none": "a model without epochs",
    }
    choices = {str(run.summary.get("epoch_choice", "")) for run in runs}
    stated = [words[choice] for choice in sorted(choices) if choice in words]
    notes = [f"Scores are those of {' or '.join(stated)}."] if stated else []
    if len(choices & {"last", "validation"}) > 1:
        notes[-1] += " These are mixed within this comparison; see the table of runs."
    if not choices <= set(words):
        notes.append("Some runs do not state whether the last or a chosen epoch was tested.")
    return notes
