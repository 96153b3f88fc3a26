"""How well scores order positives before negatives: AUC, average precision, ROC and PR curves.

Scores are sorted once; every further evaluation (a bootstrap replicate is a vector of row weights)
costs cumulative sums only.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scoutview.base.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Cumulative counts at every distinct threshold, from the strictest to the loosest."""

    thresholds: Floats
    """Distinct scores, descending, (T,); a row is called positive at or above it."""
    true_positives: Floats
    """Weight of positives at or above each threshold, (T,)."""
    false_positives: Floats
    """Weight of negatives at or above each threshold, (T,)."""


@dataclass(frozen=True)
class Ranking:
    """Binary targets and their scores, sorted once."""

    size: int
    """Rows that came in, N, missing targets included."""
    dropped: int
    """Rows left out because their target is missing."""
    positives: NDArray[np.int64]
    """Rows with target 1, (m,)."""
    negatives: NDArray[np.int64]
    """Rows with target 0, by ascending score, (n,)."""
    below: NDArray[np.int64]
    """Negatives that score strictly below each positive, (m,)."""
    not_above: NDArray[np.int64]
    """Negatives that score below or equal to each positive, (m,)."""
    order: NDArray[np.int64]
    """All rows that have a target, by descending score, (m + n,)."""
    is_positive: Floats
    """1.0 where `order` has a positive, (m + n,)."""
    last: NDArray[np.int64]
    """Last position of each distinct score in `order`, (T,)."""
    thresholds: Floats
    """Distinct scores, descending, (T,)."""

    @classmethod
    def of(cls, targets: ArrayLike, scores: ArrayLike) -> Self:
        """Sort rows by score.

        Args:
            targets: 1 positive, 0 negative, NaN missing, (N,).
            scores: Larger means more likely positive, (N,); any scale.

        Raises:
            DataError: A target is neither 0, 1 nor NaN, or a score that counts is not finite.
        """
        y, s = checked(targets, scores)
        known = np.flatnonzero(~np.isnan(y))
        order = known[np.argsort(-s[known], kind="stable")]
        positives = known[y[known] == 1]
        ascending = order[::-1]
        negatives = ascending[y[ascending] == 0]
        last = np.flatnonzero(np.diff(s[order], append=-np.inf)) if len(order) else order
        return cls(
            size=len(y),
            dropped=len(y) - len(known),
            positives=positives,
            negatives=negatives,
            below=np.searchsorted(s[negatives], s[positives], side="left"),
            not_above=np.searchsorted(s[negatives], s[positives], side="right"),
            order=order,
            is_positive=y[order],
            last=last,
            thresholds=s[order][last],
        )

    @property
    def one_class(self) -> str:
        """Why nothing can be ranked: a class is absent; empty if both are there."""
        if not len(self.order):
            return "no row has a target"
        if not len(self.positives):
            return "no positive row"
        return "" if len(self.negatives) else "no negative row"

    def auc(self, weights: Floats | None = None) -> float:
        """Area under the ROC curve: P(positive scores higher) + P(tie) / 2.

        Args:
            weights: Weight of every row, (N,) >= 0; default 1.

        Returns:
            The area in [0, 1]; NaN where a class has no weight.
        """
        m, n = float(len(self.positives)), float(len(self.negatives))
        if weights is None:
            if m * n == 0:
                return math.nan
            return float((self.below + self.not_above).sum()) / (2 * m * n)
        positive = weights.take(self.positives)
        cumulative = np.empty(len(self.negatives) + 1)
        cumulative[0] = 0
        np.cumsum(weights.take(self.negatives), out=cumulative[1:])
        total = positive.sum() * cumulative[-1]
        if total == 0:
            return math.nan
        wins = cumulative.take(self.below) + cumulative.take(self.not_above)
        return float(positive @ wins) / (2 * float(total))

    def curve(self, weights: Floats | None = None) -> Curve:
        """Count positives and negatives at or above every distinct score."""
        row = np.ones(len(self.order)) if weights is None else weights[self.order]
        positive = row * self.is_positive
        return Curve(
            thresholds=self.thresholds,
            true_positives=np.cumsum(positive)[self.last],
            false_positives=np.cumsum(row - positive)[self.last],
        )

    def average_precision(self, weights: Floats | None = None) -> float:
        """Mean precision over recall steps, without interpolation; NaN without positives."""
        curve = self.curve(weights)
        called = curve.true_positives + curve.false_positives
        total = curve.true_positives[-1] if len(called) else 0.0
        if total == 0:
            return math.nan
        gained = np.diff(curve.true_positives, prepend=0.0)
        precision = np.divide(
            curve.true_positives, called, out=np.zeros_like(called), where=called > 0
        )
        return float(gained @ precision / total)

    def sensitivity_at(self, specificity: float, weights: Floats | None = None) -> float:
        """Largest sensitivity of any threshold whose specificity is at least the given one.

        Args:
            specificity: In [0, 1].
            weights: Weight of every row, (N,) >= 0; default 1.

        Returns:
            The sensitivity in [0, 1]; NaN where a class has no weight.
        """
        curve = self.curve(weights)
        if not len(curve.thresholds):
            return math.nan
        m, n = curve.true_positives[-1], curve.false_positives[-1]
        if m == 0 or n == 0:
            return math.nan
        # 1e-12 absorbs the rounding of 1 - specificity, as 1 - .9 is not .1
        allowed = curve.false_positives / n <= 1 - specificity + 1e-12
        return float(max(curve.true_positives[allowed].max(initial=0.0), 0.0) / m)


def checked(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Turn binary targets and scores into float64 vectors.

    Raises:
        DataError: The lengths differ, a target is neither 0, 1 nor NaN, or a score beside a known
            target is not finite.
    """
    y, s = np.asarray(targets, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise DataError(
            f"Targets and scores must be vectors of one length, got {y.shape} and {s.shape}."
        )
    known = ~np.isnan(y)
    strange = set(np.unique(y[known])) - {0.0, 1.0}
    if strange:
        raise DataError(
            f"Targets must be 0, 1 or NaN, got {sorted(strange)[:3]}; apply a policy for uncertain"
            " labels first."
        )
    if not np.isfinite(s[known]).all():
        raise DataError(
            f"{int((~np.isfinite(s[known])).sum())} scores are not finite; a model that predicts"
            " NaN has no rank."
        )
    return y, s


def auc(targets: ArrayLike, scores: ArrayLike, weights: Floats | None = None) -> float:
    """Area under the ROC curve, ties counted half; NaN with one class. See `Ranking.auc`."""
    return Ranking.of(targets, scores).auc(weights)


def average_precision(
    targets: ArrayLike, scores: ArrayLike, weights: Floats | None = None
) -> float:
    """Average precision; NaN without positives. See `Ranking.average_precision`."""
    return Ranking.of(targets, scores).average_precision(weights)


def sensitivity_at_specificity(
    targets: ArrayLike, scores: ArrayLike, specificity: float, weights: Floats | None = None
) -> float:
    """Sensitivity at a specificity of at least the given one. See `Ranking.sensitivity_at`."""
    return Ranking.of(targets, scores).sensitivity_at(specificity, weights)


@dataclass(frozen=True)
class ROC:
    """Points of a ROC curve, from (0, 0) to (1, 1)."""

    false_positive_rate: Floats
    """(T + 1,)."""
    true_positive_rate: Floats
    """(T + 1,)."""
    thresholds: Floats
    """(T + 1,); the first is +inf: nothing is called positive."""


def roc(targets: ArrayLike, scores: ArrayLike, weights: Floats | None = None) -> ROC:
    """Trace the ROC curve, one point per distinct score.

    Raises:
        DataError: A class is absent.
    """
    ranking = Ranking.of(targets, scores)
    if ranking.one_class:
        raise DataError(f"A ROC curve needs both classes: {ranking.one_class}.")
    curve = ranking.curve(weights)
    return ROC(
        np.concatenate([[0.0], curve.false_positives / curve.false_positives[-1]]),
        np.concatenate([[0.0], curve.true_positives / curve.true_positives[-1]]),
        np.concatenate([[np.inf], curve.thresholds]),
    )
