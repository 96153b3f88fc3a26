"""Intervals: bootstrap by patient within a run, t over seeds, Wilson for a share."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from scoutview.base.errors import DataError
from scoutview.base.randomness import BOOTSTRAP, generator
from scoutview.stats.estimate import Estimate, not_computable
from scoutview.stats.ranking import Ranking

Floats = NDArray[np.float64]
Statistic = Callable[[Floats | None], float]
"""Computes a number from row weights, (N,); None means that every row counts once."""


@dataclass(frozen=True)
class Replicates:
    """A statistic on the data and on its bootstrap replicates."""

    value: float
    """On the data itself."""
    replicates: Floats
    """(R,), NaN where a replicate cannot be computed (a class was not drawn)."""


def patient_weights(patients: ArrayLike, replicates: int, *, seed: int) -> Iterator[Floats]:
    """Draw patients with replacement; every row weighs as often as its patient was drawn.

    Args:
        patients: Patient of each row, (N,), any sortable type.
        replicates: Number of draws.
        seed: Replicate r of a seed is the same draw for every model, so comparisons are paired.

    Yields:
        Row weights, (N,) float64.
    """
    names, inverse = np.unique(np.asarray(patients), return_inverse=True)
    count = len(names)
    for replicate in range(replicates):
        drawn = generator(seed, BOOTSTRAP, replicate).integers(0, count, count)
        yield np.bincount(drawn, minlength=count).astype(np.float64)[inverse]


def bootstrap_replicates(
    statistics: Sequence[Statistic],
    patients: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> list[Replicates]:
    """Evaluate several statistics on the same bootstrap draws of patients.

    Args:
        statistics: Functions of row weights.
        patients: Patient of each row, (N,).
        replicates: Number of draws, >= 1.
        seed: See `patient_weights`.

    Returns:
        One result per statistic; replicate r of all of them is one draw.

    Raises:
        DataError: There are fewer than two patients.
    """
    if len(np.unique(np.asarray(patients))) < 2:
        raise DataError("A bootstrap over patients needs at least two patients.")
    table = np.empty((len(statistics), replicates))
    for r, weights in enumerate(patient_weights(patients, replicates, seed=seed)):
        for k, statistic in enumerate(statistics):
            table[k, r] = statistic(weights)
    return [Replicates(s(None), row) for s, row in zip(statistics, table, strict=True)]


def percentile_interval(
    result: Replicates, *, n: int, level: float = 0.95, dropped: int = 0, unit: str = "patients"
) -> Estimate:
    """Turn replicates into an estimate with the percentile interval.

    Args:
        result: The statistic and its replicates.
        n: Rows that count.
        level: Coverage, in (0, 1).
        dropped: Rows without a target.
        unit: What was drawn.

    Returns:
        The estimate. Replicates that could not be computed are left out and counted in the note.
    """
    method = f"bootstrap over {unit}, {len(result.replicates)} replicates, {level:.0%}"
    if math.isnan(result.value):
        return not_computable("a class is absent", n=n, method=method, dropped=dropped)
    usable = result.replicates[~np.isnan(result.replicates)]
    lost = len(result.replicates) - len(usable)
    note = f"{lost} replicates lack a class" if lost else ""
    if not len(usable):
        return Estimate(result.value, math.nan, math.nan, n, method, note, dropped)
    low, high = np.quantile(usable, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(result.value, float(low), float(high), n, method, note, dropped)


def bootstrap(
    statistic: Statistic,
    patients: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile interval of any weighted statistic, patients drawn with replacement.

    Args:
        statistic: Function of row weights, as in `lambda w: brier(y, p, w)`.
        patients: Patient of each row, (N,).
        replicates: Number of draws.
        level: Coverage, in (0, 1).
        seed: See `patient_weights`.

    Returns:
        The estimate with its interval.
    """
    (result,) = bootstrap_replicates([statistic], patients, replicates=replicates, seed=seed)
    return percentile_interval(result, n=len(np.asarray(patients)), level=level)


def bootstrap_auc(
    targets: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Estimate]:
    """Bootstrap the AUC of many labels; each label is sorted once, not once per replicate.

    Args:
        targets: 1, 0 or NaN (dropped per label), (N, L).
        scores: (N, L).
        patients: Patient of each row, (N,).
        replicates: Number of draws, shared by all labels.
        level: Coverage, in (0, 1).
        seed: See `patient_weights`.

    Returns:
        One estimate per label.
    """
    y, s = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    rankings = [Ranking.of(y[:, k], s[:, k]) for k in range(y.shape[1])]
    results = bootstrap_replicates(
        [ranking.auc for ranking in rankings], patients, replicates=replicates, seed=seed
    )
    return [
        percentile_interval(result, n=len(r.order), level=level, dropped=r.dropped)
        for result, r in zip(results, rankings, strict=True)
    ]


def within(low: float, high: float, bounds: tuple[float, float] | None) -> tuple[float, float, str]:
    """Cut an interval at the range that a score can have.

    Returns:
        Its ends, and a note if one was cut. Coverage stays: the truth lies within the range.
    """
    if bounds is None or math.isnan(low) or (bounds[0] <= low and high <= bounds[1]):
        return low, high, ""
    note = f"the interval is cut at the range of the score, {bounds[0]:g} to {bounds[1]:g}"
    return max(low, bounds[0]), min(high, bounds[1]), note


def t_interval(
    values: ArrayLike, *, level: float = 0.95, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Mean over seeds with Student's interval (sample standard deviation, n - 1).

    Args:
        values: One score per seed, (n,), all finite.
        level: Coverage, in (0, 1).
        bounds: Range of the score, at which the interval is cut; None is unbounded.

    Returns:
        The mean with its interval; one seed has no interval, and the note says so.

    Raises:
        DataError: A value is NaN: a run without a score must be reported, not averaged.
    """
    x = np.asarray(values, dtype=np.float64)
    method = f"t over {len(x)} seeds, {level:.0%}"
    if not len(x):
        return not_computable("no seed", n=0, method=method)
    if not np.isfinite(x).all():
        raise DataError(f"{int((~np.isfinite(x)).sum())} of {len(x)} scores are not finite.")
    mean = float(x.mean())
    if len(x) == 1:
        return Estimate(mean, math.nan, math.nan, 1, method, "one seed: no interval over seeds")
    half = float(student.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    low, high, note = within(mean - half, mean + half, bounds)
    return Estimate(mean, low, high, len(x), method, note)


def wilson(successes: float, n: int, *, level: float = 0.95) -> Estimate:
    """Share of independent rows with Wilson's interval.

    Source: Wilson, JASA 1927.
    """
    method = f"Wilson, {level:.0%}"
    if n == 0:
        return not_computable("no row", n=0, method=method)
    share = successes / n
    z = float(norm.ppf(0.5 + level / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n, method)
