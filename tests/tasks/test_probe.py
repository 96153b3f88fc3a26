import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Oracle
from sklearn.metrics import roc_auc_score

from scoutview.base.errors import DataError
from scoutview.tasks.probe import RandomForest, fit_forest, fit_linear, macro_auc
from scoutview.tasks.targets import Targets


def sample(seed, n=120, labels=2, exclusive=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    if exclusive:
        y = np.eye(3)[(x[:, :3] + 0.7 * rng.normal(size=(n, 3))).argmax(1)]
        return x, Targets(("c=0", "c=1", "c=2"), y, exclusive=True)
    y = (x[:, :labels] + rng.normal(size=(n, labels)) > 0).astype(float)
    return x, Targets(tuple("ab"[:labels]), y, exclusive=False)


def test_fit_linear__chooses_the_penalty_that_scikit_learn_would():
    train, val, test = sample(0), sample(1), sample(2)
    grid = (1e-3, 1e-1, 10.0)
    mean, std = train[0].mean(0), train[0].std(0)
    best = None
    for l2 in sorted(grid, reverse=True):
        models = [
            Oracle(C=1 / (l2 * 120), tol=1e-10, max_iter=10_000).fit((train[0] - mean) / std, y)
            for y in train[1].values.T
        ]
        scores = [m.predict_proba((val[0] - mean) / std)[:, 1] for m in models]
        area = roc_auc_score(val[1].values, np.column_stack(scores))
        if best is None or area > best[0]:
            probe = [m.predict_proba((test[0] - mean) / std)[:, 1] for m in models]
            best = (area, l2, np.column_stack(probe))
    ours = fit_linear(grid, train, val)
    assert ours.setting == best[1]
    assert ours.validation_auc == pytest.approx(best[0], abs=1e-6)
    np.testing.assert_allclose(ours.predict(test[0]), best[2], atol=1e-4)


@pytest.mark.parametrize("exclusive", [False, True])
def test_fit_forest__equals_scikit_learn_per_label_and_repeats_by_seed(exclusive):
    from sklearn.ensemble import RandomForestClassifier

    train, val = sample(0, exclusive=exclusive), sample(1, exclusive=exclusive)
    config = RandomForest(trees=10, min_leaf=(2,))
    ours = fit_forest(config, train, val, seed=5).predict(val[0])
    columns = [train[1].classes] if exclusive else train[1].values.T
    forests = [
        RandomForestClassifier(10, min_samples_leaf=2, random_state=5).fit(train[0], y)
        for y in columns
    ]
    expected = (
        forests[0].predict_proba(val[0])
        if exclusive
        else np.column_stack([f.predict_proba(val[0])[:, 1] for f in forests])
    )
    np.testing.assert_array_equal(ours, expected)
    assert (fit_forest(config, train, val, seed=6).predict(val[0]) != ours).any()


def test_fit_linear__of_classes_gives_probabilities_that_sum_to_one():
    probed = fit_linear((0.1,), sample(0, exclusive=True), sample(1, exclusive=True))
    x, y = sample(2, exclusive=True)
    p = probed.predict(x)
    np.testing.assert_allclose(p.sum(1), 1)
    assert macro_auc(y, p) > 0.75


def test_fit_linear__says_which_label_the_subset_has_one_class_of():
    x, y = sample(0)
    y.values[:, 1] = 0
    probed = fit_linear((0.1,), (x, y), sample(1))
    assert "one class only of: b" in probed.notes[0]


def test_fit_linear__needs_a_validation_part_that_can_choose():
    x, y = sample(1)
    y.values[:] = 1
    with pytest.raises(DataError, match="cannot choose a penalty"):
        fit_linear((0.1, 1.0), sample(0), (x, y))
    assert np.isnan(fit_linear((0.1,), sample(0), (x, y)).validation_auc)


def test_fit_forest__learns_from_known_targets_only():
    x, y = sample(0)
    y.values[:60, 0] = np.nan
    half = Targets(("a",), y.values[60:, :1], exclusive=False)
    config = RandomForest(trees=5, min_leaf=(1,))
    val = sample(1, labels=1)
    whole = fit_forest(config, (x, Targets(("a",), y.values[:, :1], False)), val, seed=0)
    part = fit_forest(config, (x[60:], half), val, seed=0)
    np.testing.assert_array_equal(whole.predict(val[0]), part.predict(val[0]))
