import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from scoutview.base.errors import DataError
from scoutview.stats.delong import auc_interval, delong, paired_delong, paired_log10_p

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "delong").glob("*.npz"))


def covered(hits, trials, level=0.95):
    """Whether a count of covering intervals is within the central 99.9 % of a binomial."""
    low, high = binom.interval(0.999, trials, level)
    return low <= hits <= high


@pytest.mark.parametrize("file", GOLDEN, ids=lambda f: f.stem)
def test_delong__reproduces_the_original_code(file):
    case = np.load(file)
    tolerance = json.loads(file.with_suffix(".json").read_text())["tolerance"]
    close = tolerance["when_run_in_float64"]
    result = delong(case["in_labels"], np.stack([case["in_scores_a"], case["in_scores_b"]]))
    np.testing.assert_allclose(result.auc, case["out_auc"], **close)
    np.testing.assert_allclose(result.covariance, case["out_covariance"], **close)
    test = paired_delong(case["in_labels"], case["in_scores_a"], case["in_scores_b"])
    assert test.p == pytest.approx(float(case["out_p"]), rel=1e-8)
    log10_p = paired_log10_p(case["in_labels"], case["in_scores_a"], case["in_scores_b"])
    assert log10_p == pytest.approx(float(case["out_log10_p"]), rel=1e-8)


def test_paired_log10_p__without_variance_says_what_the_test_says():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    assert paired_log10_p(labels, scores, np.exp(scores)) == 0.0
    assert paired_delong(labels, scores, np.exp(scores)).p == 1.0
    assert math.isnan(paired_log10_p(labels, labels, 1 - labels))


def clustered_by_hand(y, scores, patients):
    """Obuchowski, 1997, with sums over patients written out."""
    m, n = int((y == 1).sum()), int((y == 0).sum())
    k = len(scores)
    area = np.zeros(k)
    v10 = {}
    v01 = {}
    for a in range(k):
        for i in np.flatnonzero(y == 1):
            v10[a, i] = np.mean(
                [
                    (scores[a][i] > scores[a][j]) + 0.5 * (scores[a][i] == scores[a][j])
                    for j in np.flatnonzero(y == 0)
                ]
            )
        for j in np.flatnonzero(y == 0):
            v01[a, j] = np.mean(
                [
                    (scores[a][i] > scores[a][j]) + 0.5 * (scores[a][i] == scores[a][j])
                    for i in np.flatnonzero(y == 1)
                ]
            )
        area[a] = np.mean([v10[a, i] for i in np.flatnonzero(y == 1)])
    names = np.unique(patients)
    i10 = sum(bool(((patients == p) & (y == 1)).any()) for p in names)
    i01 = sum(bool(((patients == p) & (y == 0)).any()) for p in names)
    covariance = np.zeros((k, k))
    for a in range(k):
        for b in range(k):
            s10 = s01 = s11 = s11t = 0.0
            for p in names:
                pos = np.flatnonzero((patients == p) & (y == 1))
                neg = np.flatnonzero((patients == p) & (y == 0))
                da = sum(v10[a, i] - area[a] for i in pos)
                db = sum(v10[b, i] - area[b] for i in pos)
                ea = sum(v01[a, j] - area[a] for j in neg)
                eb = sum(v01[b, j] - area[b] for j in neg)
                s10 += da * db
                s01 += ea * eb
                s11 += da * eb
                s11t += db * ea
            covariance[a, b] = (
                i10 / ((i10 - 1) * m) * s10 / m
                + i01 / ((i01 - 1) * n) * s01 / n
                + len(names) / (len(names) - 1) * (s11 + s11t) / (m * n)
            )
    return area, covariance


def test_delong__by_patient_equals_the_paper_equations():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 12, 40)
    y = (rng.random(40) < 0.4).astype(float)
    scores = np.round(rng.normal(size=(2, 40)) + y, 1)
    area, covariance = clustered_by_hand(y, scores, patients)
    result = delong(y, scores, patients)
    np.testing.assert_allclose(result.auc, area, rtol=1e-12)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-10)


def test_delong__by_patient_with_one_row_each_is_delong():
    rng = np.random.default_rng(1)
    y = (rng.random(60) < 0.5).astype(float)
    scores = rng.normal(size=(2, 60)) + y
    plain, grouped = delong(y, scores), delong(y, scores, np.arange(60))
    np.testing.assert_allclose(grouped.covariance, plain.covariance, rtol=1e-12)


def true_auc(shift):
    """AUC of two unit normals that are `shift` apart."""
    return 0.5 * (1 + math.erf(shift / 2))


@pytest.mark.parametrize("scale", ["logit", "plain"])
def test_auc_interval__covers_the_truth_in_95_percent_of_studies(scale):
    rng = np.random.default_rng(2)
    y = np.repeat([1.0, 0.0], [60, 60])
    hits = 0
    for _ in range(600):
        interval = auc_interval(y, rng.normal(size=120) + 1.0 * y, scale=scale)
        hits += interval.low <= true_auc(1.0) <= interval.high
    assert covered(hits, 600)


def test_auc_interval__by_patient_covers_where_rows_depend_on_each_other():
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(80), 4)
    y = np.repeat(np.tile([0.0, 1.0], 40), 4)
    grouped = naive = 0
    for _ in range(400):
        shared = np.repeat(rng.normal(size=80), 4)
        s = math.sqrt(0.8) * shared + math.sqrt(0.2) * rng.normal(size=320) + y
        by_patient, by_row = auc_interval(y, s, patients), auc_interval(y, s)
        grouped += by_patient.low <= true_auc(1.0) <= by_patient.high
        naive += by_row.low <= true_auc(1.0) <= by_row.high
    assert covered(grouped, 400)
    assert naive < 0.85 * 400


def test_paired_delong__rejects_equal_models_in_5_percent_of_studies():
    rng = np.random.default_rng(4)
    y = np.repeat([1.0, 0.0], [60, 60])
    rejected = 0
    for _ in range(600):
        shared = rng.normal(size=120) + y
        a, b = (shared + 0.7 * rng.normal(size=120) for _ in range(2))
        test = paired_delong(y, a, b)
        rejected += test.p < 0.05
        assert (test.p < 0.05) == (test.low > 0 or test.high < 0)
    assert covered(rejected, 600, level=0.05)


def test_paired_delong__of_equal_rankings_is_one_with_a_note():
    y, s = [1, 0, 1, 0, 0], np.array([0.9, 0.8, 0.7, 0.2, 0.1])
    test = paired_delong(y, s, 2 * s)
    assert (test.difference, test.p) == (0.0, 1.0)
    assert "alike" in test.note


def test_auc_interval__says_why_there_is_no_number_or_interval():
    one_class = auc_interval([1, 1, np.nan], [0.1, 0.2, 0.3])
    assert math.isnan(one_class.value)
    assert (one_class.note, one_class.n, one_class.dropped) == ("no negative row", 2, 1)
    single = auc_interval([1, 0, 0], [0.5, 0.2, 0.7])
    assert single.value == 0.5
    assert math.isnan(single.low)
    assert "no interval" in single.note
    apart = auc_interval([1, 1, 0, 0], [4, 3, 2, 1])
    assert apart.value == 1.0
    assert math.isnan(apart.low)
    assert "variance" in apart.note


def test_delong__refuses_too_few_rows_and_unknown_scales():
    with pytest.raises(DataError, match="two rows of each class, got 1 positive"):
        delong([1, 0, 0], [0.3, 0.2, 0.1])
    with pytest.raises(DataError, match="'logit' or 'plain'"):
        auc_interval([1, 0], [0.1, 0.2], scale="log")
