"""DeLong's variance of the AUC: intervals and paired tests, for independent or clustered rows.

Source: DeLong et al., Biometrics 1988 (components); Sun & Xu, IEEE SPL 2014 (midranks);
Obuchowski, Biometrics 1997 (several images per patient).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from scoutview.base.errors import DataError
from scoutview.stats.estimate import Comparison, Estimate, not_computable
from scoutview.stats.ranking import checked

Floats = NDArray[np.float64]
_NO_VARIANCE = 1e-15
"""Below it the variance of a difference of AUCs is rounding."""


@dataclass(frozen=True)
class DeLong:
    """AUCs of K score vectors on the same rows, with their covariance."""

    auc: Floats
    """(K,)."""
    covariance: Floats
    """(K, K)."""
    positives: int
    """Rows with target 1."""
    negatives: int
    """Rows with target 0."""


def delong(targets: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None) -> DeLong:
    """Compute AUCs and their covariance from structural components.

    Args:
        targets: 1 positive, 0 negative, NaN missing (dropped), (N,).
        scores: One row per model, (K, N), or (N,) for one model.
        patients: Patient of each row, (N,). Rows of one patient may depend on each other
            (Obuchowski); default: every row is independent (DeLong). The two agree exactly when
            every patient has one row.

    Returns:
        AUCs (K,) and covariance (K, K).

    Raises:
        DataError: Fewer than two positives or two negatives (or patients that have them).

    Source: DeLong et al., 1988; Sun & Xu, 2014, algorithm 2; Obuchowski, 1997, eq. 4-6.
    """
    stacked = np.atleast_2d(np.asarray(scores, dtype=np.float64))  # (K, N)
    y = np.asarray(targets, dtype=np.float64)
    for row in stacked:
        y, _ = checked(targets, row)
    positive, negative = y == 1, y == 0
    m, n = int(positive.sum()), int(negative.sum())
    if m < 2 or n < 2:
        raise DataError(f"DeLong needs two rows of each class, got {m} positive, {n} negative.")
    v10 = np.empty((len(stacked), m))
    v01 = np.empty((len(stacked), n))
    for k, row in enumerate(stacked):
        v10[k], v01[k] = _components(row[positive], row[negative])
    area = v10.mean(axis=1)
    if patients is None:
        covariance = np.cov(v10).reshape(len(area), -1) / m + np.cov(v01).reshape(len(area), -1) / n
    else:
        groups = np.asarray(patients)
        covariance = _clustered(v10, v01, area, groups[positive], groups[negative])
    return DeLong(area, covariance, m, n)


def _components(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Share of the other class that each row beats, ties half, from midranks."""
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    v10 = (ranks[:m] - rankdata(positive)) / n
    v01 = 1 - (ranks[m:] - rankdata(negative)) / m
    return v10, v01


def _clustered(
    v10: Floats,
    v01: Floats,
    area: Floats,
    positive_groups: NDArray[np.generic],
    negative_groups: NDArray[np.generic],
) -> Floats:
    m, n = v10.shape[1], v01.shape[1]
    names, inverse = np.unique(
        np.concatenate([positive_groups, negative_groups]), return_inverse=True
    )
    of_positive, of_negative = inverse[:m], inverse[m:]
    have10, have01 = len(np.unique(of_positive)), len(np.unique(of_negative))
    if have10 < 2 or have01 < 2:
        raise DataError("Clustered DeLong needs two patients with each class.")
    d10 = np.stack([np.bincount(of_positive, row, len(names)) for row in v10 - area[:, None]])
    d01 = np.stack([np.bincount(of_negative, row, len(names)) for row in v01 - area[:, None]])
    s10 = have10 / ((have10 - 1) * m) * d10 @ d10.T
    s01 = have01 / ((have01 - 1) * n) * d01 @ d01.T
    s11 = len(names) / (len(names) - 1) * d10 @ d01.T
    covariance: Floats = s10 / m + s01 / n + (s11 + s11.T) / (m * n)
    return covariance


def auc_interval(
    targets: ArrayLike,
    scores: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    level: float = 0.95,
    scale: str = "logit",
) -> Estimate:
    """AUC with DeLong's interval.

    Args:
        targets: 1 positive, 0 negative, NaN missing (dropped), (N,).
        scores: Larger means more likely positive, (N,).
        patients: Patient of each row, (N,); see `delong`.
        level: Coverage of the interval, in (0, 1).
        scale: "logit": symmetric on the logit scale, stays inside (0, 1) and covers better near 1;
            "plain": AUC ± z * standard error, cut at 0 and 1.

    Returns:
        The estimate; not computable with a note if a class has no row, without an interval if a
        class has one row, or if positives and negatives are perfectly apart (variance 0).
    """
    if scale not in ("logit", "plain"):
        raise DataError(f"scale must be 'logit' or 'plain', got {scale!r}.")
    y, s = checked(targets, scores)
    m, n = int((y == 1).sum()), int((y == 0).sum())
    dropped = int(np.isnan(y).sum())
    kind = "DeLong" if patients is None else "DeLong by patient"
    method = f"{kind}, {scale}, {level:.0%}"
    if m == 0 or n == 0:
        missing = "positive" if m == 0 else "negative"
        return not_computable(f"no {missing} row", n=m + n, method=method, dropped=dropped)
    if not _enough(y, patients):
        value = float(_components(s[y == 1], s[y == 0])[0].mean())
        note = "one row or patient of a class: no interval"
        return Estimate(value, math.nan, math.nan, m + n, method, note, dropped)
    result = delong(y, s, patients)
    value, error = float(result.auc[0]), math.sqrt(max(0.0, float(result.covariance[0, 0])))
    if error == 0:
        note = "no variance between rows: DeLong gives no interval"
        return Estimate(value, math.nan, math.nan, m + n, method, note, dropped)
    z = float(norm.ppf(0.5 + level / 2))
    if scale == "plain":
        low, high = max(0.0, value - z * error), min(1.0, value + z * error)
    else:
        half = z * error / (value * (1 - value))
        low, high = float(expit(logit(value) - half)), float(expit(logit(value) + half))
    return Estimate(value, low, high, m + n, method, "", dropped)


def _enough(y: Floats, patients: ArrayLike | None) -> bool:
    units = np.arange(len(y)) if patients is None else np.asarray(patients)
    return len(np.unique(units[y == 1])) >= 2 and len(np.unique(units[y == 0])) >= 2


def paired_delong(
    targets: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    patients: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Comparison:
    """Test whether two models that scored the same rows have equal AUC.

    Args:
        targets: 1 positive, 0 negative, NaN missing (dropped), (N,).
        scores_a: Scores of model a, (N,).
        scores_b: Scores of model b, (N,).
        patients: Patient of each row, (N,); see `delong`.
        level: Coverage of the interval of the difference, in (0, 1).

    Returns:
        AUC_a - AUC_b with a plain interval and the two-sided normal p-value.
    """
    y = np.asarray(targets, dtype=np.float64)
    test = "paired DeLong" if patients is None else "paired DeLong by patient"
    rows = int((~np.isnan(y)).sum())
    if not _enough(y, patients):
        note = "fewer than two rows or patients of a class"
        return Comparison(math.nan, math.nan, math.nan, math.nan, rows, test, note)
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    result = delong(y, np.stack([a, b]), patients)
    difference = float(result.auc[0] - result.auc[1])
    contrast = np.array([1.0, -1.0])
    variance = float(contrast @ result.covariance @ contrast)
    # equal rankings leave a variance of rounding errors only
    if variance <= _NO_VARIANCE:
        if difference == 0:
            return Comparison(0.0, 0.0, 0.0, 1.0, rows, test, "both models rank all rows alike")
        note = "the difference has no variance"
        return Comparison(difference, math.nan, math.nan, math.nan, rows, test, note)
    error = math.sqrt(variance)
    z = float(norm.ppf(0.5 + level / 2))
    p = 2 * float(norm.sf(abs(difference) / error))
    return Comparison(difference, difference - z * error, difference + z * error, p, rows, test)


def paired_log10_p(targets: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> float:
    """Base-10 logarithm of the paired two-sided p-value; exact where p itself underflows.

    Without variance it is 0 for equal AUCs and NaN for others, as `paired_delong` has it.
    """
    result = delong(targets, np.stack([np.asarray(scores_a), np.asarray(scores_b)]))
    contrast = np.array([1.0, -1.0])
    variance = float(contrast @ result.covariance @ contrast)
    difference = abs(float(result.auc[0] - result.auc[1]))
    if variance <= _NO_VARIANCE:
        return math.nan if difference else 0.0
    z = difference / math.sqrt(variance)
    return (math.log(2) + float(norm.logsf(z))) / math.log(10)
