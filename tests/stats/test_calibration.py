import math

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from scoutview.base.errors import DataError
from scoutview.stats.calibration import (
    brier,
    calibration_line,
    expected_calibration_error,
    reliability,
)


def sample(seed=0, n=400):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    return (rng.random(n) < expit(0.5 + 0.6 * logit(p))).astype(float), p


def test_brier__equals_scikit_learn():
    y, p = sample()
    w = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    assert brier(y, p) == pytest.approx(brier_score_loss(y, p))
    expected = brier_score_loss(y, p, sample_weight=w)
    padded_w = np.append(w, 4.0)
    assert brier(np.append(y, np.nan), np.append(p, 0.3), padded_w) == pytest.approx(expected)
    assert math.isnan(brier([np.nan], [0.5]))


def test_reliability__equals_scikit_learn():
    y, p = sample()
    observed, predicted = calibration_curve(y, p, n_bins=10)
    table = reliability(y, p, bins=10)
    np.testing.assert_allclose(table.observed, observed)
    np.testing.assert_allclose(table.predicted, predicted)
    assert table.weight.sum() == len(y)


def test_reliability__keeps_zero_and_one():
    table = reliability([0, 1], [0.0, 1.0], bins=5)
    np.testing.assert_array_equal(table.predicted, [0.0, 1.0])
    np.testing.assert_array_equal(table.observed, [0.0, 1.0])


def test_expected_calibration_error__equals_the_definition_by_hand():
    # bins (0, .5] and (.5, 1]: |.3 - 1/2| * 2/4 + |.8 - 1/2| * 2/4
    y, p = [0, 1, 1, 0], [0.2, 0.4, 0.9, 0.7]
    assert expected_calibration_error(y, p, bins=2) == pytest.approx(0.25)


def test_calibration_line__equals_logistic_regression_and_the_truth():
    y, p = sample(n=4000)
    line = calibration_line(y, p)
    fit = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    assert line.intercept == pytest.approx(float(fit.intercept_[0]), abs=1e-4)
    assert line.slope == pytest.approx(float(fit.coef_[0, 0]), abs=1e-4)
    assert (line.intercept, line.slope) == pytest.approx((0.5, 0.6), abs=0.15)


@pytest.mark.parametrize(
    ("y", "p", "note"),
    [
        ([1, 1], [0.2, 0.4], "one class"),
        ([0, 1], [0.4, 0.4], "equal"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "perfectly apart"),
    ],
)
def test_calibration_line__says_why_there_is_none(y, p, note):
    line = calibration_line(y, p)
    assert math.isnan(line.slope)
    assert note in line.note


def test_calibration__refuses_scores_that_are_no_probabilities():
    with pytest.raises(DataError, match=r"\[0, 1\], got -2 to 3"):
        brier([0, 1], [-2.0, 3.0])
