import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from scoutview.base.errors import DataError
from scoutview.nn.probe_solvers import fit_linear_probe, knn_scores, knn_votes


def blobs(n=150, d=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centres = rng.normal(size=(classes, d))
    x = centres[y] + 1.5 * rng.normal(size=(n, d)) + 3.0
    return torch.from_numpy(x), torch.from_numpy(y)


def test_linear_probe__equals_scikit_learn_on_classes():
    x, y = blobs()
    probe = fit_linear_probe(x, y, kind="multiclass", l2=0.01, standardise=False)
    model = LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(probe.probabilities(x), model.predict_proba(x), atol=1e-5)
    np.testing.assert_allclose(probe.weight, model.coef_, atol=1e-4)


def test_linear_probe__the_gradient_of_the_stated_objective_vanishes():
    x, y = blobs()
    probe = fit_linear_probe(x, y, kind="multiclass", l2=0.01, standardise=False)
    weight = probe.weight.requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + probe.bias, y)
    (loss + 0.5 * 0.01 * weight.square().sum()).backward()
    assert float(weight.grad.abs().max()) < 1e-6


def test_linear_probe__a_label_or_class_that_never_varies_gets_its_constant_answer():
    x, y = blobs()
    always = torch.ones(len(x), 1, dtype=torch.float64)
    probe = fit_linear_probe(x, always, kind="multilabel", l2=0.1)
    assert float(probe.probabilities(x).min()) > 1 - 1e-8
    probe = fit_linear_probe(x, y.clamp_max(1), kind="multiclass", l2=0.1, classes=4)
    assert float(probe.probabilities(x)[:, 2:].max()) < 1e-6


def test_linear_probe__equals_scikit_learn_on_labels_with_missing_rows():
    x, y = blobs()
    targets = torch.stack([(y == 0).double(), (y == 1).double()], dim=1)
    targets[::4, 1] = torch.nan
    probe = fit_linear_probe(x, targets, kind="multilabel", l2=0.02, standardise=False)
    for label in range(2):
        known = ~targets[:, label].isnan()
        model = LogisticRegression(C=1 / (0.02 * int(known.sum())), tol=1e-10, max_iter=10_000)
        model.fit(x[known], targets[known, label])
        np.testing.assert_allclose(
            probe.probabilities(x)[:, label], model.predict_proba(x)[:, 1], atol=1e-5
        )


def test_linear_probe__standardises_and_folds_it_back():
    x, y = blobs()
    scaled = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    inside = fit_linear_probe(x * 7.0 - 3.0, y, kind="multiclass", l2=0.05)
    outside = fit_linear_probe(scaled, y, kind="multiclass", l2=0.05, standardise=False)
    torch.testing.assert_close(
        inside.probabilities(x * 7.0 - 3.0), outside.probabilities(scaled), atol=1e-6, rtol=0
    )


def test_linear_probe__survives_constant_features_and_separable_classes():
    x = torch.cat([torch.linspace(-1, 1, 40)[:, None], torch.full((40, 1), 5.0)], dim=1)
    y = (x[:, 0] > 0).long()
    probe = fit_linear_probe(x, y, kind="multiclass", l2=1e-4)
    assert torch.isfinite(probe.weight).all()
    assert torch.equal(probe.logits(x).argmax(dim=1), y)


def test_linear_probe__refuses_features_that_are_not_finite():
    x, y = blobs()
    x[3, 1] = torch.nan
    with pytest.raises(DataError, match="finite"):
        fit_linear_probe(x, y, kind="multiclass", l2=0.1)


def test_knn_votes__equal_a_loop_over_neighbours():
    x, y = blobs(n=40)
    test, _ = blobs(n=7, seed=1)
    x, test = (torch.nn.functional.normalize(t, dim=1) for t in (x, test))
    votes = knn_votes(x, torch.nn.functional.one_hot(y), test, k=5, temperature=0.1, chunk=3)
    for i, row in enumerate(test):
        similarity = [float(row @ other) for other in x]
        nearest = sorted(range(40), key=lambda j: -similarity[j])[:5]
        expected = [0.0] * 3
        for j in nearest:
            expected[int(y[j])] += np.exp(similarity[j] / 0.1)
        np.testing.assert_allclose(votes[i], expected, rtol=1e-10)


def test_knn_scores__at_high_temperature_are_scikit_learns_uniform_vote():
    x, y = blobs()
    test, _ = blobs(n=30, seed=1)
    scores = knn_scores(x, torch.nn.functional.one_hot(y).double(), test, k=9, temperature=1e9)
    model = KNeighborsClassifier(9, metric="cosine").fit(x, y)
    np.testing.assert_allclose(scores, model.predict_proba(test), atol=1e-6)


def test_knn_scores__leave_missing_labels_out():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    targets = torch.tensor([[torch.nan], [1.0], [0.0]])
    near = knn_scores(x, targets, torch.tensor([[1.0, 0.0]]), k=2)
    assert float(near) == 1.0
    alone = knn_scores(x, targets, torch.tensor([[1.0, 0.0]]), k=1)
    assert float(alone) == 0.5  # nobody near knows, so the mean of the known
