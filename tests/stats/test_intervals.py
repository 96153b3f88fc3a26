import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from scoutview.base.errors import DataError
from scoutview.stats.intervals import (
    bootstrap,
    bootstrap_auc,
    bootstrap_replicates,
    patient_weights,
    t_interval,
    wilson,
)
from scoutview.stats.ranking import Ranking


def covered(hits, trials, level=0.95):
    """Whether a count of covering intervals is within the central 99.9 % of a binomial."""
    low, high = binom.interval(0.999, trials, level)
    return low <= hits <= high


def test_patient_weights__draw_whole_patients_and_repeat_by_seed():
    patients = np.array(["b", "a", "b", "c", "a"])
    draws = list(patient_weights(patients, 50, seed=3))
    for weights in draws:
        assert weights[0] == weights[2]
        assert weights[1] == weights[4]
        assert weights[0] + weights[1] + weights[3] == 3
    again = list(patient_weights(patients, 50, seed=3))
    np.testing.assert_array_equal(draws, again)
    other = list(patient_weights(patients, 50, seed=4))
    assert not np.array_equal(draws, other)


def test_bootstrap_replicates__equal_resampled_rows_scored_by_scikit_learn():
    rng = np.random.default_rng(0)
    y = (rng.random(60) < 0.4).astype(float)
    s = np.round(rng.normal(size=60) + y, 1)
    patients = rng.integers(0, 25, 60)
    (result,) = bootstrap_replicates([Ranking.of(y, s).auc], patients, replicates=40, seed=1)
    for weights, value in zip(
        patient_weights(patients, 40, seed=1), result.replicates, strict=True
    ):
        rows = np.repeat(np.arange(60), weights.astype(int))
        assert value == pytest.approx(roc_auc_score(y[rows], s[rows]), abs=1e-12)


def test_bootstrap__agrees_with_scipy():
    x = np.random.default_rng(5).gamma(2.0, size=80)
    ours = bootstrap(
        lambda w: float(x.mean() if w is None else w @ x / w.sum()), np.arange(80), replicates=4000
    )
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(6)
    ).confidence_interval
    assert ours.value == pytest.approx(x.mean())
    # both are Monte Carlo: quantiles agree to a few hundredths of a standard error
    error = x.std() / math.sqrt(80)
    assert ours.low == pytest.approx(theirs.low, abs=0.12 * error)
    assert ours.high == pytest.approx(theirs.high, abs=0.12 * error)


def test_bootstrap_auc__covers_the_truth_in_95_percent_of_studies_with_repeated_patients():
    rng = np.random.default_rng(7)
    patients = np.repeat(np.arange(60), 3)
    y = np.repeat(np.tile([0.0, 1.0], 30), 3)
    truth = 0.5 * (1 + math.erf(0.5))
    by_patient = by_row = 0
    for study in range(300):
        s = math.sqrt(0.8) * np.repeat(rng.normal(size=60), 3) + math.sqrt(0.2) * rng.normal(
            size=180
        )
        s += y
        (one,) = bootstrap_auc(y[:, None], s[:, None], patients, replicates=200, seed=study)
        (other,) = bootstrap_auc(y[:, None], s[:, None], np.arange(180), replicates=200, seed=study)
        by_patient += one.low <= truth <= one.high
        by_row += other.low <= truth <= other.high
    assert covered(by_patient, 300)
    assert by_row < 0.85 * 300


def test_bootstrap_auc__reports_missing_targets_and_absent_classes():
    rng = np.random.default_rng(8)
    y = (rng.random((50, 3)) < 0.5).astype(float)
    y[:7, 0] = np.nan
    y[:, 1] = 0
    s = rng.random((50, 3))
    first, second, third = bootstrap_auc(y, s, np.arange(50), replicates=20)
    assert (first.dropped, first.n) == (7, 43)
    assert math.isnan(second.value)
    assert "class is absent" in second.note
    assert third.low < third.value < third.high


def test_bootstrap_auc__counts_replicates_without_a_class():
    y = np.array([1.0, 0, 0, 0, 0])[:, None]
    (estimate,) = bootstrap_auc(y, np.arange(5.0)[:, None], np.arange(5), replicates=200)
    lost = int(estimate.note.split()[0])
    # the only positive is not drawn with probability (4/5)^5 = .33
    assert covered(lost, 200, 0.8**5)


def test_bootstrap__needs_two_patients():
    with pytest.raises(DataError, match="two patients"):
        bootstrap(lambda _: 1.0, ["a", "a"])


def test_t_interval__equals_scipy():
    x = [0.81, 0.84, 0.79, 0.86, 0.8]
    ours = t_interval(x)
    theirs = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert (ours.value, ours.n) == (pytest.approx(np.mean(x)), 5)


def test_t_interval__covers_the_truth_in_95_percent_of_studies():
    rng = np.random.default_rng(9)
    hits = 0
    for _ in range(1000):
        interval = t_interval(rng.normal(0.8, 0.02, size=5))
        hits += interval.low <= 0.8 <= interval.high
    assert covered(hits, 1000)


def test_t_interval__of_one_seed_has_no_interval_and_of_nan_is_refused():
    one = t_interval([0.8])
    assert one.value == 0.8
    assert math.isnan(one.low)
    assert "one seed" in one.note
    with pytest.raises(DataError, match="1 of 2 scores"):
        t_interval([0.8, math.nan])


def test_t_interval__is_cut_at_the_range_of_the_score():
    """The t quantile of three seeds is 4.30265 (any table of t)."""
    x = [0.59, 1.0, 0.999]
    half = 4.30265 * np.std(x, ddof=1) / math.sqrt(3)
    free, cut = t_interval(x), t_interval(x, bounds=(0, 1))
    assert free.high == pytest.approx(np.mean(x) + half)
    assert free.high > 1
    assert (cut.value, cut.low, cut.high) == (free.value, free.low, 1.0)
    assert (free.note, "cut at the range" in cut.note) == ("", True)
    assert t_interval([0.4, 0.5, 0.6], bounds=(0, 1)).note == ""


@pytest.mark.parametrize(("successes", "n"), [(0, 12), (3, 12), (12, 12)])
def test_wilson__equals_scipy(successes, n):
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    ours = wilson(successes, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
