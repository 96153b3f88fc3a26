"""Who differs from whom: paired over shared seeds, and beside it paired over test patients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import pandas as pd
from scipy.stats import norm

from scoutview.base.errors import DataError
from scoutview.results.collect import Arm
from scoutview.results.scoring import Scored, ScoredRun, by_seed, patient_groups
from scoutview.stats.comparison import compare_replicates, holm, paired_t, shared_seeds, wilcoxon
from scoutview.stats.delong import delong
from scoutview.stats.estimate import Comparison, joined
from scoutview.stats.intervals import Replicates, within

LEVEL: Final = 0.95
RANGE: Final = (-1.0, 1.0)
"""Of a difference of two AUCs."""


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
    def primary(self) -> Literal["t", "bootstrap"]:
        """The test that decides: t over shared seeds, and where there is none the bootstrap."""
        return "bootstrap" if math.isnan(self.t.p) else "t"

    @property
    def test(self) -> Comparison:
        """The comparison by the test that decides."""
        return self.t if self.primary == "t" else self.bootstrap

    @property
    def verdict(self) -> Literal["better", "worse", "no difference shown", "not testable"]:
        """What the deciding test, corrected by Holm, says of a against b."""
        if math.isnan(self.p_holm):
            return "not testable"
        if self.p_holm >= self.alpha:
            return "no difference shown"
        return "better" if self.test.difference > 0 else "worse"

    def turned(self) -> "Pair":
        """The same comparison seen from b."""
        return replace(
            self,
            a=self.b,
            b=self.a,
            t=_negated(self.t),
            bootstrap=_negated(self.bootstrap),
            delong=_negated(self.delong),
            wilcoxon=_negated(self.wilcoxon),
        )


def _negated(test: Comparison) -> Comparison:
    return replace(test, difference=-test.difference, low=-test.high, high=-test.low)


def compare_pairs(
    scored: Scored, arms: Sequence[Arm], reference: str, fraction: float
) -> list[Pair]:
    """Compare all arms with each other at one label fraction.

    Args:
        scored: The scores of all runs.
        arms: What is compared.
        reference: Pre-trained arms against this one are a family of their own: the question that
            the study was made for must not pay for the others.
        fraction: Label fraction.
    """
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
    adjusted = holm([pair.test.p for pair in family])
    return [replace(pair, p_holm=float(p)) for pair, p in zip(family, adjusted, strict=True)]


def _pair(scored: Scored, a: str, b: str, fraction: float, family: str) -> Pair:
    of_a, of_b = scored.at(a, fraction), scored.at(b, fraction)
    by_a, by_b = by_seed(of_a), by_seed(of_b)
    if by_a.keys() & by_b.keys():
        shared = shared_seeds(by_a, by_b)
        t = paired_t(shared.a, shared.b, level=LEVEL, bounds=RANGE)
        rank = wilcoxon(shared.a, shared.b)
        t = replace(t, note=joined(t.note, shared.note))
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
        delong=delong_difference(of_a, of_b, scored.labels),
        wilcoxon=rank,
    )


def _bootstrap_difference(a: Sequence[ScoredRun], b: Sequence[ScoredRun]) -> Comparison:
    """Compare the mean AUC over seeds on the same draws of test patients."""
    n = len({p for s in a for p in s.run.test["patient_id"]})
    return compare_replicates(_mean(a), _mean(b), n=n, level=LEVEL)


def _mean(runs: Sequence[ScoredRun]) -> Replicates:
    value = float(np.mean([s.value for s in runs]))
    return Replicates(value, np.mean([s.draws for s in runs], axis=0))


def delong_difference(
    a: Sequence[ScoredRun], b: Sequence[ScoredRun], labels: Sequence[str]
) -> Comparison:
    """Compare the mean AUC over seeds with DeLong's covariance of all their score vectors.

    The mean of AUCs is a linear contrast of correlated AUCs, so its variance follows from their
    covariance. Folds have different patients: their variances add.

    Args:
        a: Runs of one arm.
        b: Runs of the other, on the same test images.
        labels: With several there is no test, because DeLong compares one label.
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
                targets, np.stack([t["score"] for t in [*of_a, *of_b]]), patient_groups(of_a[0])
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
    low, high, cut = within(difference - half, difference + half, RANGE)
    return Comparison(difference, low, high, p, rows, test, cut)


def _label(s: ScoredRun, label: str) -> pd.DataFrame:
    test = s.run.test
    return test[test["label"] == label]
