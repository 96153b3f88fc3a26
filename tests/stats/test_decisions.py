import math

import numpy as np
import pytest
from sklearn import metrics

from scoutview.base.errors import DataError
from scoutview.stats.decisions import Calls, ClassCalls


def test_calls__equal_scikit_learn_with_weights_and_missing_targets():
    rng = np.random.default_rng(0)
    y = (rng.random(150) < 0.4).astype(float)
    s, w = np.clip(0.3 * y + 0.7 * rng.random(150), 0, 1), rng.integers(0, 3, 150).astype(float)
    called = s >= 0.4
    padded = Calls.of(np.append(y, np.nan), np.append(s, 0.9), 0.4)
    weights = np.append(w, 5.0)
    assert padded.accuracy(weights) == pytest.approx(
        metrics.accuracy_score(y, called, sample_weight=w)
    )
    assert padded.balanced_accuracy(weights) == pytest.approx(
        metrics.balanced_accuracy_score(y, called, sample_weight=w)
    )
    assert padded.f1(weights) == pytest.approx(metrics.f1_score(y, called, sample_weight=w))
    assert padded.sensitivity() == pytest.approx(metrics.recall_score(y, called))
    assert padded.specificity() == pytest.approx(metrics.recall_score(1 - y, ~called))
    assert sum(padded.counts()) == 150


def test_calls__with_one_class_are_not_computable():
    calls = Calls.of([0, 0], [0.1, 0.9])
    assert calls.accuracy() == 0.5
    assert math.isnan(calls.balanced_accuracy())
    assert math.isnan(calls.f1())


def test_class_calls__equal_scikit_learn():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 120)
    s = rng.random((120, 4)) + 0.5 * np.eye(4)[y]
    w = rng.integers(0, 3, 120).astype(float)
    calls = ClassCalls.of(np.append(y, -1), np.vstack([s, np.ones(4)]))
    called, weights = s.argmax(1), np.append(w, 9.0)
    assert calls.accuracy(weights) == pytest.approx(
        metrics.accuracy_score(y, called, sample_weight=w)
    )
    assert calls.balanced_accuracy(weights) == pytest.approx(
        metrics.balanced_accuracy_score(y, called, sample_weight=w)
    )


def test_class_calls__refuse_a_class_without_a_score():
    with pytest.raises(DataError, match="classes up to 3"):
        ClassCalls.of([0, 3], np.ones((2, 3)))
