"""Paired comparisons over test patients (DeLong, bootstrap) and over shared seeds (t, Wilcoxon).

Holm's correction for many comparisons, and the check that repetitions are repetitions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, ttest_rel
from scipy.stats import t as student
from scipy.stats import wilcoxon as scipy_wilcoxon

from scoutview.base.errors import DataError
from scoutview.stats.delong import paired_delong
from scoutview.stats.estimate import Comparison, joined
from scoutview.stats.intervals import Replicates, Statistic, bootstrap_replicates, within

__all__ = [
    "SharedSeeds",
    "check_distinct",
    "compare_replicates",
    "holm",
    "paired_bootstrap",
    "paired_delong",
    "paired_t",
    "shared_seeds",
    "wilcoxon",
]

Floats = NDArray[np.float64]
_EXACT_LIMIT = 50


def paired_bootstrap(
    statistic_a: Statistic,
    statistic_b: Statistic,
    patients: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same bootstrap draws of test patients.

    Args:
        statistic_a: Number of model a from row weights, as in `Ranking.of(y, a).auc`.
        statistic_b: The same number of model b on the same rows.
        patients: Patient of each row, (N,).
        replicates: Number of draws.
        level: Coverage of the interval of the difference, in (0, 1).
        seed: See `patient_weights`.

    Returns:
        a - b with the percentile interval, and p as twice the smaller share of replicates on
        either side of 0, never below 2 / (replicates + 1).

    Source: Davison & Hinkley, 1997, section 4.4, with the (1 + count) / (1 + R) correction.
    """
    a, b = bootstrap_replicates(
        [statistic_a, statistic_b], patients, replicates=replicates, seed=seed
    )
    return compare_replicates(a, b, n=len(np.asarray(patients)), level=level)


def compare_replicates(a: Replicates, b: Replicates, *, n: int, level: float = 0.95) -> Comparison:
    """Compare two numbers whose replicate r is the same draw of test patients.

    Args:
        a: The first number.
        b: The second, with as many replicates.
        n: What the comparison rests on, rows or patients.
        level: Coverage of the interval of the difference, in (0, 1).

    Returns:
        As `paired_bootstrap`.
    """
    test = f"paired bootstrap over patients, {len(a.replicates)} replicates"
    difference = a.value - b.value
    draws = a.replicates - b.replicates
    usable = draws[~np.isnan(draws)]
    if math.isnan(difference) or not len(usable):
        note = "a class is absent"
        return Comparison(difference, math.nan, math.nan, math.nan, n, test, note)
    low, high = np.quantile(usable, [0.5 - level / 2, 0.5 + level / 2])
    tail = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    p = min(1.0, 2 * (1 + tail) / (1 + len(usable)))
    lost = len(draws) - len(usable)
    note = f"{lost} replicates lack a class" if lost else ""
    return Comparison(difference, float(low), float(high), p, n, test, note)


@dataclass(frozen=True)
class SharedSeeds:
    """Scores of two arms at the seeds that both have."""

    seeds: tuple[int, ...]
    a: Floats
    """(n,), in the order of `seeds`."""
    b: Floats
    """(n,), in the order of `seeds`."""
    note: str = ""
    """Which seeds only one arm has."""


def shared_seeds(a: Mapping[int, float], b: Mapping[int, float]) -> SharedSeeds:
    """Pair two arms by seed.

    Args:
        a: Score by seed.
        b: Score by seed.

    Returns:
        The pairs by ascending seed. Seeds of one arm only are left out and named.

    Raises:
        DataError: No seed is shared.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise DataError(f"A paired comparison needs shared seeds, got {sorted(a)} and {sorted(b)}.")
    alone = sorted(a.keys() ^ b.keys())
    note = f"seeds of one arm only are left out: {alone}" if alone else ""
    return SharedSeeds(
        seeds, np.array([a[s] for s in seeds]), np.array([b[s] for s in seeds]), note
    )


def _pairs(a: ArrayLike, b: ArrayLike) -> Floats:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise DataError(f"Pairs must be two vectors of one length, got {x.shape} and {y.shape}.")
    difference = x - y
    if not np.isfinite(difference).all():
        raise DataError("Every pair must have two finite scores; report runs without one.")
    return difference


def paired_t(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Comparison:
    """Paired t-test over shared seeds.

    Args:
        a: Score of each seed, (n,).
        b: Score of the same seeds, (n,).
        level: Coverage of the interval of the mean difference, in (0, 1).
        bounds: Range of a difference, at which the interval is cut; None is unbounded.

    Returns:
        Mean difference, t interval and two-sided p; one pair has neither, and the note says so.
    """
    d = _pairs(a, b)
    n, test = len(d), "paired t over seeds"
    mean = float(d.mean()) if n else math.nan
    if n < 2:
        note = "fewer than two pairs: no test"
        return Comparison(mean, math.nan, math.nan, math.nan, n, test, note)
    error = float(d.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        note = "all differences are equal: the t-test has no variance to compare with"
        return Comparison(mean, mean, mean, 1.0 if mean == 0 else math.nan, n, test, note)
    half = float(student.ppf(0.5 + level / 2, n - 1)) * error
    p = float(ttest_rel(np.asarray(a), np.asarray(b)).pvalue)
    few = "two or three pairs: the normal assumption cannot be checked" if n < 4 else ""
    low, high, cut = within(mean - half, mean + half, bounds)
    return Comparison(mean, low, high, p, n, test, joined(few, cut))


def wilcoxon(a: ArrayLike, b: ArrayLike, *, level: float = 0.95) -> Comparison:
    """Wilcoxon signed-rank test over shared seeds.

    Args:
        a: Score of each seed, (n,).
        b: Score of the same seeds, (n,).
        level: Coverage of the interval of the pseudo-median, in (0, 1).

    Returns:
        Hodges-Lehmann pseudo-median of the differences, its distribution-free interval (NaN where
        n is too small for the level), and the two-sided p, exact up to 50 pairs.

    Source: Hollander, Wolfe & Chicken, 2014, sections 3.1-3.3.
    """
    d = _pairs(a, b)
    n, test = len(d), "Wilcoxon signed-rank over seeds"
    if n == 0 or not d.any():
        value, p = (0.0, 1.0) if n else (math.nan, math.nan)
        return Comparison(value, math.nan, math.nan, p, n, test, "no pair differs")
    nonzero = int((d != 0).sum())
    i, j = np.triu_indices(n)
    walsh = np.sort((d[i] + d[j]) / 2)
    low, high = math.nan, math.nan
    skip = _signed_rank_quantile(n, (1 - level) / 2)
    if skip >= 0:
        low, high = float(walsh[skip]), float(walsh[-1 - skip])
    alpha = 1 - level
    note = ""
    if 2.0 ** (1 - nonzero) > alpha:
        fewest = math.ceil(1 - math.log2(alpha))
        note = (
            f"Wilcoxon with fewer than {fewest} pairs cannot reach {alpha:.2g}".replace("0.", ".")
            + f" (smallest p here: {2.0 ** (1 - nonzero):.3g})"
        )
    p = float(scipy_wilcoxon(d).pvalue)
    return Comparison(float(np.median(walsh)), low, high, p, n, test, note)


def _signed_rank_quantile(n: int, tail: float) -> int:
    """Largest k with P(W <= k) <= tail under the null, or -1."""
    if n > _EXACT_LIMIT:
        mean, variance = n * (n + 1) / 4, n * (n + 1) * (2 * n + 1) / 24
        return math.floor(mean + float(norm.ppf(tail)) * math.sqrt(variance) - 0.5)
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1
    for rank in range(1, n + 1):
        counts[rank:] = counts[rank:] + counts[: len(counts) - rank]
    return int(np.searchsorted(np.cumsum(counts) / 2.0**n, tail, side="right")) - 1


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values of a family of tests; compare the result with the level as usual.

    Args:
        p_values: (m,); NaN (a test that could not be made) stays NaN and is not counted.

    Returns:
        Adjusted p-values, (m,), in the order given, in [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def check_distinct(
    names: Sequence[str], seeds: Sequence[int], predictions: Sequence[ArrayLike]
) -> None:
    """Refuse runs that only look like repetitions.

    Args:
        names: Name of each run of one arm (one initialisation, fraction, fold).
        seeds: Seed of each run.
        predictions: Scores of each run, any shape.

    Raises:
        DataError: Two runs share a seed, or predict the same to the last bit: an interval over
            them would be too narrow.
    """
    by_seed: dict[int, str] = {}
    by_bits: dict[bytes, str] = {}
    for name, seed, scores in zip(names, seeds, predictions, strict=True):
        if seed in by_seed:
            raise DataError(
                f"{by_seed[seed]} and {name} have the same seed {seed}; repetitions need different"
                " seeds: leave one out."
            )
        by_seed[seed] = name
        values = np.ascontiguousarray(scores, dtype=np.float64)
        bits = repr(values.shape).encode() + values.tobytes()
        if bits in by_bits:
            raise DataError(
                f"{by_bits[bits]} and {name} predict the same to the last bit; they are one run,"
                " not two: leave one out."
            )
        by_bits[bits] = name
