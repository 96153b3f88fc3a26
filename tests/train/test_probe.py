import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.methods.objectives import small_backbone

from scoutview.contract import LabelSpec, Objective
from scoutview.data.batch import IGNORE, Batch
from scoutview.train.probe import LabelledProbe, macro_auc


class Plain(Objective):
    def __init__(self):
        super().__init__()
        self.backbone = small_backbone()


def labelled(seed, n=40, *, classes=2):
    """Images whose brightness follows the class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (n,), generator=generator)
    images = torch.randn(n, 1, 16, 16, generator=generator) + 3 * targets[:, None, None, None]
    rows = torch.arange(n)
    return Batch([images], [], rows, rows, torch.zeros_like(rows), targets)


def probe(spec, train, test):
    return LabelledProbe(
        lambda: iter([train]), lambda: iter([test]), spec, prepare=lambda b: b, every=3
    )


def test_measure__separable_classes_score_high_and_leave_no_trace():
    spec = LabelSpec("multiclass", ("a", "b", "c"))
    train, test = labelled(0, classes=3), labelled(1, classes=3)
    train.targets[0] = IGNORE
    objective = Plain().train()
    state, random = objective.state_dict(), torch.get_rng_state()
    before = {name: value.clone() for name, value in state.items()}
    found = probe(spec, train, test).measure(objective, torch.device("cpu"))
    assert found["linear_auc"] > 0.9
    assert found["knn_auc"] > 0.8
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), random)
    assert objective.backbone.training


def test_due__every_few_epochs_and_at_the_end():
    spec = LabelSpec("multiclass", ("a", "b"))
    one = probe(spec, labelled(0), labelled(1))
    assert [epoch for epoch in range(8) if one.due(epoch, last=False)] == [3, 6]
    assert one.due(7, last=True)


def test_macro_auc__equals_scikit_learn_and_leaves_out_missing():
    rng = np.random.default_rng(0)
    targets, scores = (rng.random((50, 3)) < 0.4).astype(float), rng.random((50, 3))
    targets[:5, 0], targets[:, 2] = np.nan, 1.0
    expected = [
        roc_auc_score(targets[5:, 0], scores[5:, 0]),
        roc_auc_score(targets[:, 1], scores[:, 1]),
    ]
    found = macro_auc(torch.from_numpy(targets), torch.from_numpy(scores))
    assert found == pytest.approx(np.mean(expected), abs=1e-12)
    assert np.isnan(macro_auc(torch.ones(4, 1), torch.rand(4, 1)))
