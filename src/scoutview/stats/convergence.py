"""When a training run is as good as it will get."""

import numpy as np
from numpy.typing import ArrayLike

from scoutview.base.errors import DataError


def convergence_epoch(epochs: ArrayLike, scores: ArrayLike, *, share: float = 0.98) -> int:
    """Earliest epoch whose score reaches a share of the final best.

    Args:
        epochs: Epoch of each score, (n,), any order.
        scores: Larger is better, (n,), >= 0; NaN epochs were not evaluated and are left out.
        share: Of the best score of the whole run, in (0, 1].

    Returns:
        The epoch.

    Raises:
        DataError: No epoch has a score, or a score is negative (a share of it has no meaning).
    """
    x, y = np.asarray(epochs), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(y)
    if not known.any():
        raise DataError("No epoch has a score; let the run evaluate at least once.")
    if y[known].min() < 0:
        raise DataError(f"Scores must be >= 0, got {y[known].min():.3g}.")
    return int(x[known][y[known] >= share * y[known].max()].min())


def speed_up(epoch: int, reference_epoch: int) -> float:
    """How many times earlier a run converges than a reference, counting epochs from 1."""
    return reference_epoch / epoch
