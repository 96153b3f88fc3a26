import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binom

from scoutview.base.errors import DataError
from scoutview.stats.comparison import (
    check_distinct,
    holm,
    paired_bootstrap,
    paired_t,
    shared_seeds,
    wilcoxon,
)
from scoutview.stats.ranking import Ranking


def covered(hits, trials, level):
    """Whether a count is within the central 99.9 % of a binomial."""
    low, high = binom.interval(0.999, trials, level)
    return low <= hits <= high


def wilcoxon_by_enumeration(d):
    """Two-sided p over all sign patterns of the observed ranks."""
    ranks = stats.rankdata(np.abs(d))
    observed = ranks[d > 0].sum()
    centre = ranks.sum() / 2
    sums = [
        sum(r for r, s in zip(ranks, signs, strict=True) if s)
        for signs in itertools.product([0, 1], repeat=len(d))
    ]
    return np.mean([abs(s - centre) >= abs(observed - centre) - 1e-12 for s in sums])


@pytest.mark.parametrize("seed", range(4))
def test_wilcoxon__equals_enumeration_of_all_signs(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=8) + 0.5, rng.normal(size=8)
    assert wilcoxon(a, b).p == pytest.approx(wilcoxon_by_enumeration(a - b))


def test_wilcoxon__interval_equals_the_published_example():
    # Hollander & Wolfe, 1973, table 3.1: Hamilton depression scale, before and after
    before = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    after = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    test = wilcoxon(before, after)
    # R: wilcox.test(before, after, paired=TRUE, conf.int=TRUE): p .03906, .46 (.01, .786)
    assert test.p == pytest.approx(0.0390625)
    assert test.difference == pytest.approx(0.46)
    assert (test.low, test.high) == pytest.approx((0.01, 0.786))


@pytest.mark.parametrize("n", range(1, 9))
def test_wilcoxon__says_when_it_cannot_reach_significance(n):
    test = wilcoxon(np.arange(n) + 1.0, np.zeros(n))
    smallest = 2.0 ** (1 - n)
    assert test.p == pytest.approx(smallest)
    assert ("fewer than 6 pairs cannot reach .05" in test.note) == (smallest > 0.05)
    assert math.isnan(test.low) == (smallest > 0.05)


def test_wilcoxon__without_any_difference_is_one():
    assert wilcoxon([0.5, 0.6], [0.5, 0.6]).p == 1.0


def test_wilcoxon__interval_covers_the_truth():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        test = wilcoxon(rng.normal(0.3, 1, 10), np.zeros(10))
        hits += test.low <= 0.3 <= test.high
    # discrete: the level reached at n = 10 is 1 - 2 * 8 / 1024 + a step at most above 95 %
    assert hits >= binom.ppf(0.0005, 400, 0.95)


def test_wilcoxon__large_samples_follow_the_normal_approximation():
    rng = np.random.default_rng(1)
    d = rng.normal(0.2, 1, 60)
    test = wilcoxon(d, np.zeros(60))
    assert test.low < 0.2 < test.high
    assert test.p == pytest.approx(float(stats.wilcoxon(d).pvalue))


def test_paired_t__equals_scipy():
    a, b = np.array([0.81, 0.84, 0.79, 0.86, 0.8]), np.array([0.8, 0.8, 0.78, 0.83, 0.81])
    ours, theirs = paired_t(a, b), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    assert ours.difference == pytest.approx((a - b).mean())


def test_paired_t__is_cut_at_the_range_of_a_difference():
    a, b = [0.99, 0.5], [0.01, 0.5]
    free, cut = paired_t(a, b), paired_t(a, b, bounds=(-1, 1))
    assert free.low < -1 < 1 < free.high
    assert (cut.low, cut.high) == (-1, 1)
    assert (cut.difference, cut.p) == (free.difference, free.p)
    assert "cut at the range" in cut.note


def test_paired_t__names_what_it_cannot_do():
    assert "fewer than two" in paired_t([0.8], [0.7]).note
    equal = paired_t([0.5, 0.25], [0.25, 0.0])
    assert math.isnan(equal.p)
    assert "no variance" in equal.note
    with pytest.raises(DataError, match="two finite scores"):
        paired_t([0.8, math.nan], [0.7, 0.6])


def test_paired_bootstrap__rejects_equal_models_in_5_percent_of_studies():
    rng = np.random.default_rng(2)
    y = np.tile([1.0, 0.0], 60)
    rejected = 0
    for study in range(250):
        shared = rng.normal(size=120) + y
        a, b = (Ranking.of(y, shared + 0.7 * rng.normal(size=120)) for _ in range(2))
        test = paired_bootstrap(a.auc, b.auc, np.arange(120), replicates=200, seed=study)
        rejected += test.p < 0.05
    assert covered(rejected, 250, 0.05)


def test_paired_bootstrap__finds_a_better_model_and_never_says_zero():
    rng = np.random.default_rng(3)
    y = np.tile([1.0, 0.0], 100)
    good, noise = Ranking.of(y, y + 0.3 * rng.normal(size=200)), rng.normal(size=200)
    test = paired_bootstrap(good.auc, Ranking.of(y, noise).auc, np.arange(200), replicates=99)
    assert test.low > 0
    assert test.p == pytest.approx(2 / 100)


def test_holm__equals_the_step_down_procedure():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    # sorted .005 .01 .03 .04, times 4 3 2 1, running maximum
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1.0, 1.0])


def test_holm__does_not_count_tests_that_were_not_made():
    adjusted = holm([0.02, np.nan, 0.03])
    np.testing.assert_allclose(adjusted, [0.04, np.nan, 0.04])


def test_holm__keeps_the_family_error_at_5_percent():
    p = np.random.default_rng(4).random((2000, 5))
    wrong = sum((holm(row) < 0.05).any() for row in p)
    assert covered(wrong, 2000, 1 - (1 - 0.05 / 5) ** 5)


def test_shared_seeds__pairs_by_seed_and_names_the_rest():
    pairs = shared_seeds({2: 0.2, 0: 0.1, 5: 0.5}, {0: 1.1, 2: 1.2, 7: 1.7})
    assert pairs.seeds == (0, 2)
    np.testing.assert_array_equal(pairs.a, [0.1, 0.2])
    np.testing.assert_array_equal(pairs.b, [1.1, 1.2])
    assert "[5, 7]" in pairs.note
    with pytest.raises(DataError, match="shared seeds"):
        shared_seeds({0: 1.0}, {1: 1.0})


def test_check_distinct__refuses_equal_seeds_and_equal_bits():
    x = np.array([0.1, 0.2])
    check_distinct(["a", "b"], [0, 1], [x, np.nextafter(x, 1)])
    with pytest.raises(DataError, match="a and b have the same seed 3"):
        check_distinct(["a", "b"], [3, 3], [x, x + 1])
    with pytest.raises(DataError, match="a and c predict the same to the last bit"):
        check_distinct(["a", "b", "c"], [0, 1, 2], [x, x + 1, x.copy()])
