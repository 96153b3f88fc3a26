import math

import numpy as np
import pytest
from sklearn import metrics

from scoutview.base.errors import DataError
from scoutview.stats.delong import auc_interval
from scoutview.stats.scores import score_table


def sample(seed=0, n=160, labels=3):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, labels)) < 0.4).astype(float)
    return y, np.clip(0.25 * y + 0.75 * rng.random((n, labels)), 0, 1), rng.integers(0, 70, n)


def test_score_table__values_equal_scikit_learn():
    y, s, patients = sample()
    table = score_table(y, s, patients, ["a", "b", "c"], replicates=30)
    for k, name in enumerate("abc"):
        expected = {
            "auc": metrics.roc_auc_score(y[:, k], s[:, k]),
            "auc_bootstrap": metrics.roc_auc_score(y[:, k], s[:, k]),
            "average_precision": metrics.average_precision_score(y[:, k], s[:, k]),
            "accuracy": metrics.accuracy_score(y[:, k], s[:, k] >= 0.5),
            "f1": metrics.f1_score(y[:, k], s[:, k] >= 0.5),
            "brier": metrics.brier_score_loss(y[:, k], s[:, k]),
        }
        for metric, value in expected.items():
            assert table.get(name, metric).value == pytest.approx(value)
    macro = metrics.roc_auc_score(y, s, average="macro")
    assert table.get("macro", "auc").value == pytest.approx(macro)
    for row in table.rows:
        if not row.metric.startswith("calibration"):
            assert (
                row.estimate.low <= row.estimate.value <= row.estimate.high or row.metric == "ece"
            )


def test_score_table__uses_delong_by_patient_only_where_patients_repeat():
    y, s, patients = sample(labels=1)
    repeated = score_table(y, s, patients, ["a"], replicates=5).get("a", "auc")
    assert repeated == auc_interval(y[:, 0], s[:, 0], patients)
    single = score_table(y, s, np.arange(len(y)), ["a"], replicates=5).get("a", "auc")
    assert single == auc_interval(y[:, 0], s[:, 0])


def test_score_table__never_averages_a_label_with_one_class_silently():
    y, s, patients = sample()
    y[:, 1] = 0
    table = score_table(y, s, patients, ["a", "b", "c"], replicates=5)
    assert table.left_out == ("b",)
    assert math.isnan(table.get("b", "auc").value)
    assert "no positive row" in table.get("b", "auc").note
    macro = table.get("macro", "auc")
    assert macro.note.startswith("over 2 of 3 labels; left out: b")
    assert macro.value == pytest.approx(metrics.roc_auc_score(y[:, [0, 2]], s[:, [0, 2]]))


def test_score_table__drops_missing_targets_per_label_and_counts_them():
    y, s, patients = sample()
    y[:10, 0] = np.nan
    table = score_table(y, s, patients, ["a", "b", "c"], replicates=5)
    assert (table.get("a", "auc").n, table.get("a", "auc").dropped) == (150, 10)
    assert table.get("a", "f1").dropped == 10
    assert table.get("b", "auc").dropped == 0


def test_score_table__of_classes_adds_accuracy_at_the_largest_score():
    rng = np.random.default_rng(2)
    classes = rng.integers(0, 3, 90)
    y = np.eye(3)[classes]
    s = rng.random((90, 3)) + y
    s /= s.sum(axis=1, keepdims=True)
    table = score_table(y, s, np.arange(90), ["x", "y", "z"], kind="classes", replicates=5)
    expected = metrics.accuracy_score(classes, s.argmax(1))
    assert table.get("macro", "accuracy").value == pytest.approx(expected)
    one_vs_rest = metrics.roc_auc_score(classes, s, multi_class="ovr")
    assert table.get("macro", "auc").value == pytest.approx(one_vs_rest)
    with pytest.raises(DataError, match="exactly one class"):
        score_table(1 - y, s, np.arange(90), ["x", "y", "z"], kind="classes", replicates=5)


def test_score_table__of_one_patient_has_values_without_bootstrap_intervals():
    table = score_table([[1], [0], [1]], [[0.7], [0.6], [0.2]], ["p"] * 3, ["a"], replicates=5)
    assert table.get("a", "accuracy").value == pytest.approx(1 / 3)
    assert math.isnan(table.get("a", "accuracy").low)


def test_score_table__refuses_shapes_that_do_not_fit():
    with pytest.raises(DataError, match="2 rows and 1 labels"):
        score_table([[1], [0], [1]], [[0.1], [0.2], [0.3]], ["a", "b"], ["x"])
    y, s, patients = sample(labels=1)
    with pytest.raises(DataError, match="No score 'dice'"):
        score_table(y, s, patients, ["a"], replicates=2).get("a", "dice")
