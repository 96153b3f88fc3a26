"""How good the calls at one threshold are: accuracy, balanced accuracy, F1 and their counts.

Everything takes row weights, so that a bootstrap replicate is one product.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scoutview.base.errors import DataError
from scoutview.stats.ranking import checked

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calls:
    """Calls at one threshold: a row is called positive if its score is at or above it."""

    kinds: Floats
    """1.0 where a row is a true positive, false positive, false negative, true negative, (4, N).
    A row without a target is none of them."""

    @classmethod
    def of(cls, targets: ArrayLike, scores: ArrayLike, threshold: float = 0.5) -> Self:
        """Call every row.

        Args:
            targets: 1 positive, 0 negative, NaN missing (dropped), (N,).
            scores: (N,).
            threshold: On the scale of the scores.

        Raises:
            DataError: A target is neither 0, 1 nor NaN, or a score that counts is not finite.
        """
        y, s = checked(targets, scores)
        called = s >= threshold
        kinds = [(y == 1) & called, (y == 0) & called, (y == 1) & ~called, (y == 0) & ~called]
        return cls(np.stack(kinds).astype(np.float64))

    def counts(self, weights: Floats | None = None) -> tuple[float, float, float, float]:
        """Weights of true positives, false positives, false negatives, true negatives."""
        total = self.kinds.sum(axis=1) if weights is None else self.kinds @ weights
        return float(total[0]), float(total[1]), float(total[2]), float(total[3])

    def accuracy(self, weights: Floats | None = None) -> float:
        """Share of right calls; NaN without rows."""
        tp, fp, fn, tn = self.counts(weights)
        return _ratio(tp + tn, tp + fp + fn + tn)

    def sensitivity(self, weights: Floats | None = None) -> float:
        """Share of positives that are called positive; NaN without positives."""
        tp, _, fn, _ = self.counts(weights)
        return _ratio(tp, tp + fn)

    def specificity(self, weights: Floats | None = None) -> float:
        """Share of negatives that are called negative; NaN without negatives."""
        _, fp, _, tn = self.counts(weights)
        return _ratio(tn, tn + fp)

    def balanced_accuracy(self, weights: Floats | None = None) -> float:
        """Mean of sensitivity and specificity; NaN with one class."""
        return (self.sensitivity(weights) + self.specificity(weights)) / 2

    def f1(self, weights: Floats | None = None) -> float:
        """Harmonic mean of precision and sensitivity; NaN without positives."""
        tp, fp, fn, _ = self.counts(weights)
        return _ratio(2 * tp, 2 * tp + fp + fn) if tp + fn > 0 else math.nan


@dataclass(frozen=True)
class ClassCalls:
    """Calls of the class with the largest score."""

    right: Floats
    """1.0 where the call is right, (N,)."""
    members: Floats
    """1.0 where a row belongs to a class, (K, N); no class where the target is missing."""

    @classmethod
    def of(cls, classes: ArrayLike, scores: ArrayLike) -> Self:
        """Call every row.

        Args:
            classes: Class of each row, (N,) in [0, K), -1 missing (dropped).
            scores: (N, K).

        Raises:
            DataError: Shapes or classes do not fit, or a score that counts is not finite.
        """
        y, s = np.asarray(classes, dtype=np.int64), np.asarray(scores, dtype=np.float64)
        if s.ndim != 2 or len(s) != len(y) or y.max(initial=-1) >= s.shape[1]:
            raise DataError(
                f"Scores must be (N, K) for classes below K, got {s.shape} for {len(y)} rows and"
                f" classes up to {y.max(initial=-1)}."
            )
        if not np.isfinite(s[y >= 0]).all():
            raise DataError("Scores of rows with a class must be finite.")
        members = (y == np.arange(s.shape[1])[:, None]).astype(np.float64)
        return cls((s.argmax(axis=1) == y).astype(np.float64), members)

    def accuracy(self, weights: Floats | None = None) -> float:
        """Share of right calls; NaN without rows."""
        right, all_rows = self._by_class(weights)
        return _ratio(float(right.sum()), float(all_rows.sum()))

    def balanced_accuracy(self, weights: Floats | None = None) -> float:
        """Mean of the share of right calls over classes that have rows; NaN without rows."""
        right, all_rows = self._by_class(weights)
        present = all_rows > 0
        return float((right[present] / all_rows[present]).mean()) if present.any() else math.nan

    def _by_class(self, weights: Floats | None) -> tuple[Floats, Floats]:
        row = np.ones(len(self.right)) if weights is None else weights
        right: Floats = self.members @ (row * self.right)
        return right, self.members @ row


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
