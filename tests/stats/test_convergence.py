import numpy as np
import pytest

from scoutview.base.errors import DataError
from scoutview.stats.convergence import convergence_epoch, speed_up


def test_convergence_epoch__is_the_first_at_98_percent_of_the_best():
    scores = [0.5, 0.783, 0.785, np.nan, 0.8, 0.7]
    assert convergence_epoch(range(1, 7), scores) == 3  # .98 * .8 = .784
    assert convergence_epoch([9, 4, 2], [0.8, 0.8, 0.1]) == 4


def test_speed_up__is_the_ratio_of_epochs():
    assert speed_up(20, 50) == 2.5


def test_convergence_epoch__refuses_runs_without_scores():
    with pytest.raises(DataError, match="No epoch"):
        convergence_epoch([1, 2], [np.nan, np.nan])
    with pytest.raises(DataError, match=">= 0"):
        convergence_epoch([1], [-0.5])
