import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from scoutview.base.errors import DataError
from scoutview.stats.ranking import (
    Ranking,
    auc,
    average_precision,
    roc,
    sensitivity_at_specificity,
)


def sample(seed, n=200, *, ties=False):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    s = rng.normal(size=n) + y
    return y, np.round(s) if ties else s, rng.integers(0, 4, n).astype(float)


def auc_by_pairs(y, s, w):
    """P(positive above negative) + P(tie) / 2, one pair at a time."""
    total = won = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            total += w[i] * w[j]
            won += w[i] * w[j] * ((s[i] > s[j]) + 0.5 * (s[i] == s[j]))
    return won / total


@pytest.mark.parametrize("ties", [False, True])
def test_auc__equals_pair_counting_and_scikit_learn(ties):
    y, s, w = sample(0, ties=ties)
    assert auc(y, s) == pytest.approx(metrics.roc_auc_score(y, s), abs=1e-12)
    assert auc(y, s, w) == pytest.approx(auc_by_pairs(y, s, w), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision__equals_scikit_learn(ties):
    y, s, w = sample(1, ties=ties)
    assert average_precision(y, s) == pytest.approx(metrics.average_precision_score(y, s))
    expected = metrics.average_precision_score(y, s, sample_weight=w)
    assert average_precision(y, s, w) == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
def test_roc__has_the_points_of_scikit_learn(ties):
    y, s, _ = sample(2, ties=ties)
    fpr, tpr, thresholds = metrics.roc_curve(y, s, drop_intermediate=False)
    curve = roc(y, s)
    np.testing.assert_allclose(curve.false_positive_rate, fpr)
    np.testing.assert_allclose(curve.true_positive_rate, tpr)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


def test_sensitivity_at_specificity__is_the_best_threshold_that_meets_it():
    y, s, w = sample(3, ties=True)
    best = 0.0
    for threshold in [*np.unique(s), np.inf]:
        called = s >= threshold
        specificity = (w * ~called * (y == 0)).sum() / (w * (y == 0)).sum()
        if specificity >= 0.8:
            best = max(best, (w * called * (y == 1)).sum() / (w * (y == 1)).sum())
    assert sensitivity_at_specificity(y, s, 0.8, w) == pytest.approx(best)


def test_sensitivity_at_specificity__counts_a_specificity_that_is_met_exactly():
    # one of ten negatives scores above the positive: specificity is exactly .9 there
    y, s = [1] + [0] * 10, [5.0, 9.0, *range(-9, 0)]
    assert sensitivity_at_specificity(y, s, 0.9) == 1.0
    assert sensitivity_at_specificity(y, s, 0.91) == 0.0


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=30))
def test_auc__is_mirrored_by_swapped_classes_and_kept_by_monotone_maps(rows):
    y = np.array([float(row[0]) for row in rows])
    s = np.array([float(row[1]) for row in rows])
    area = auc(y, s)
    if len(set(y)) < 2:
        assert math.isnan(area)
    else:
        assert auc(1 - y, s) == pytest.approx(1 - area)
        assert auc(y, np.exp(3 * s)) == area
        assert auc(y[::-1], s[::-1]) == area


def test_ranking__drops_and_counts_missing_targets_even_with_missing_scores():
    y, s, w = sample(4)
    longer_y = np.concatenate([[np.nan, np.nan], y])
    longer_s = np.concatenate([[np.nan, 3.0], s])
    ranking = Ranking.of(longer_y, longer_s)
    assert (ranking.size, ranking.dropped) == (202, 2)
    assert ranking.auc() == auc(y, s)
    assert ranking.auc(np.concatenate([[7.0, 7.0], w])) == auc(y, s, w)
    assert ranking.average_precision() == average_precision(y, s)


@pytest.mark.parametrize(
    ("targets", "why"),
    [([0, 0], "no positive row"), ([1, 1], "no negative row"), ([np.nan] * 2, "no row has")],
)
def test_ranking__names_the_absent_class(targets, why):
    ranking = Ranking.of(targets, [0.1, 0.2])
    assert why in ranking.one_class
    assert math.isnan(ranking.auc())
    assert math.isnan(ranking.sensitivity_at(0.9))
    with pytest.raises(DataError, match="both classes"):
        roc(targets, [0.1, 0.2])


def test_ranking__refuses_what_it_cannot_rank():
    with pytest.raises(DataError, match="policy for uncertain"):
        auc([0, 1, -1], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="1 scores are not finite"):
        auc([0, 1], [0.1, np.nan])
    with pytest.raises(DataError, match="one length"):
        auc([0, 1], [0.1])
