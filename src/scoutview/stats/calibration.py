"""Whether a probability means what it says: Brier score, reliability, calibration line."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from scoutview.base.errors import DataError
from scoutview.stats.ranking import checked

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Bins of predicted probability; empty bins are left out."""

    predicted: Floats
    """Mean probability of each bin, (bins,)."""
    observed: Floats
    """Share of positives in each bin, (bins,)."""
    weight: Floats
    """Weight of the rows in each bin, (bins,)."""


@dataclass(frozen=True)
class CalibrationLine:
    """logit P(positive) = intercept + slope * logit(probability); 0 and 1 are perfect."""

    intercept: float
    slope: float
    note: str = ""
    """Why there is no line, if both are NaN."""


def _probabilities(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    y, p = checked(targets, scores)
    known = p[~np.isnan(y)]
    if known.size and (known.min() < 0 or known.max() > 1):
        raise DataError(
            f"Probabilities must be in [0, 1], got {known.min():.3g} to {known.max():.3g}."
        )
    return y, p


def brier(targets: ArrayLike, probabilities: ArrayLike, weights: Floats | None = None) -> float:
    """Mean squared distance of probability and target; NaN without rows.

    Args:
        targets: 1, 0 or NaN (dropped), (N,).
        probabilities: In [0, 1], (N,).
        weights: Weight of every row, (N,) >= 0; default 1.

    Returns:
        In [0, 1], smaller is better.

    Source: Brier, Monthly Weather Review 1950, for two classes with one term.
    """
    y, p = _probabilities(targets, probabilities)
    known = ~np.isnan(y)
    row = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = float(row[known].sum())
    return float(row[known] @ (p[known] - y[known]) ** 2) / total if total > 0 else math.nan


def reliability(
    targets: ArrayLike,
    probabilities: ArrayLike,
    *,
    bins: int = 10,
    weights: Floats | None = None,
) -> Reliability:
    """Compare predicted and observed frequency in equal-width bins (low, high], 0 in the first.

    Args:
        targets: 1, 0 or NaN (dropped), (N,).
        probabilities: In [0, 1], (N,).
        bins: Number of bins over [0, 1], >= 1.
        weights: Weight of every row, (N,) >= 0; default 1.

    Returns:
        The bins that have weight.
    """
    y, p = _probabilities(targets, probabilities)
    known = ~np.isnan(y)
    row = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    y, p, row = y[known], p[known], row[known]
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)
    weight = np.bincount(which, row, bins).astype(np.float64)
    filled = weight > 0
    return Reliability(
        np.bincount(which, row * p, bins)[filled] / weight[filled],
        np.bincount(which, row * y, bins)[filled] / weight[filled],
        weight[filled],
    )


def expected_calibration_error(
    targets: ArrayLike,
    probabilities: ArrayLike,
    *,
    bins: int = 10,
    weights: Floats | None = None,
) -> float:
    """Mean distance of predicted and observed frequency over the bins, by their weight.

    Source: Naeini et al., AAAI 2015; equal-width bins.
    """
    table = reliability(targets, probabilities, bins=bins, weights=weights)
    total = float(table.weight.sum())
    if total == 0:
        return math.nan
    return float(table.weight @ np.abs(table.predicted - table.observed)) / total


def calibration_line(targets: ArrayLike, probabilities: ArrayLike) -> CalibrationLine:
    """Fit a logistic regression of the targets on the logit of the probabilities.

    Args:
        targets: 1, 0 or NaN (dropped), (N,).
        probabilities: In [0, 1], (N,); cut at 1e-7 from both ends.

    Returns:
        Intercept and slope by maximum likelihood; NaN with a note where none exists.

    Source: Cox, Biometrika 1958; Van Calster et al., BMC Medicine 2019.
    """
    y, p = _probabilities(targets, probabilities)
    known = ~np.isnan(y)
    y, p = y[known], np.clip(p[known], 1e-7, 1 - 1e-7)
    if len(np.unique(y)) < 2:
        return CalibrationLine(math.nan, math.nan, "one class only")
    if np.ptp(p) == 0:
        return CalibrationLine(math.nan, math.nan, "all probabilities are equal")
    design = np.column_stack([np.ones(len(p)), logit(p)])  # (N, 2)
    beta = _newton(design, y)
    if beta is None:
        return CalibrationLine(math.nan, math.nan, "the classes are perfectly apart")
    return CalibrationLine(float(beta[0]), float(beta[1]))


def _newton(design: Floats, y: Floats) -> Floats | None:
    """Maximise the likelihood with step halving; None if it has no finite maximum."""

    def loss(beta: Floats) -> float:
        z = design @ beta
        return float(np.logaddexp(0, z).sum() - y @ z)

    beta = np.zeros(design.shape[1])
    current = loss(beta)
    for _ in range(100):
        mean = expit(design @ beta)
        gradient = design.T @ (y - mean)
        hessian = (design * (mean * (1 - mean))[:, None]).T @ design
        if np.linalg.cond(hessian) > 1e14:
            return None
        step = np.linalg.solve(hessian, gradient)
        while loss(beta + step) > current + 1e-12:
            step /= 2
        beta = beta + step
        current = loss(beta)
        if current < 1e-6:
            return None
        if np.abs(step).max() < 1e-10:
            return beta
    return None
