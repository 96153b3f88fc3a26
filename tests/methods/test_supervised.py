import math
from dataclasses import replace

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.contract import LabelSpec
from scoutview.methods.supervised import Supervised, SupervisedConfig


def method(kind, names) -> Supervised:
    torch.manual_seed(0)
    labels = LabelSpec(kind=kind, names=names)
    return Supervised(small_backbone(), SupervisedConfig(), labels=labels)


def test_multiclass__ignores_missing_classes():
    objective = method("multiclass", ("a", "b", "c"))
    batch = replace(make_batch("supervised", 4), targets=torch.tensor([0, 2, -100, 1]))
    loss = objective(batch, progress(0)).loss
    objective = method("multiclass", ("a", "b", "c"))
    logits = objective.classifier(objective.backbone(batch.views[0])).detach()
    terms = [-torch.log_softmax(logits[i], 0)[k] for i, k in ((0, 0), (1, 2), (3, 1))]
    assert float(loss.detach()) == pytest.approx(float(sum(terms)) / 3, rel=1e-4)


def test_binary__is_a_multilabel_of_one():
    objective = method("binary", ("pneumonia",))
    with torch.no_grad():
        objective.classifier.weight.zero_()
        objective.classifier.bias.zero_()
    batch = replace(make_batch("supervised", 4), targets=torch.tensor([[1.0], [0.0], [1.0], [1.0]]))
    assert float(objective(batch, progress(0)).loss.detach()) == pytest.approx(math.log(2))


def test_supervised__needs_labels_and_targets():
    with pytest.raises(ConfigError, match="needs labels"):
        Supervised(small_backbone(), SupervisedConfig())
    objective = method("binary", ("pneumonia",))
    with pytest.raises(ConfigError, match="batch with targets"):
        objective(replace(make_batch("supervised", 4), targets=None), progress(0))
