import math

import pytest
import torch

from scoutview.base.errors import ConfigError, DataError
from scoutview.contract import LabelSpec, Progress
from scoutview.data.batch import IGNORE, Batch
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.tasks import TASKS, resolve
from scoutview.tasks.classification import Classification, ClassificationConfig

PROGRESS = Progress(0, 10, 0, 1, 8)
TINY = BackboneConfig(
    name="resnet10t", small_stem=False, stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1)
)


def task(outputs=2, *, exclusive=False, **settings):
    torch.manual_seed(0)
    config = ClassificationConfig(**settings)
    kind = "multiclass" if exclusive else "multilabel"
    labels = LabelSpec(kind, tuple("abc"[:outputs]))
    return Classification(build_backbone(TINY), config, labels=labels)


def batch(targets, n=8):
    views = torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(n)
    return Batch([views], [torch.eye(2, 3).repeat(n, 1, 1)], rows, rows, rows * 0, targets)


def test_classification__yes_no_loss_equals_the_equation_over_known_labels():
    objective = task().eval()
    targets = torch.tensor([[1.0, 0.0], [IGNORE, 1.0]] * 4)
    inputs = batch(targets)
    loss = objective(inputs, PROGRESS).loss.detach()
    total, known = 0.0, 0
    for p, t in zip(objective.predict(inputs).flatten(), targets.flatten(), strict=True):
        if t != IGNORE:
            total -= math.log(p) if t == 1 else math.log(1 - p)
            known += 1
    assert known == 12
    assert float(loss) == pytest.approx(total / known, rel=1e-5)


def test_classification__class_loss_equals_the_equation_over_known_classes():
    objective = task(3, exclusive=True).eval()
    targets = torch.tensor([0, 2, IGNORE, 1, 0, IGNORE, 2, 1])
    inputs = batch(targets)
    p = objective.predict(inputs)
    torch.testing.assert_close(p.sum(1), torch.ones(8))
    expected = -sum(math.log(p[i, t]) for i, t in enumerate(targets) if t != IGNORE) / 6
    assert float(objective(inputs, PROGRESS).loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_classification__frozen_backbone_keeps_weights_and_batch_statistics():
    objective = task(freeze_backbone=True, hidden_dim=4)
    objective.train()
    before = {k: v.clone() for k, v in objective.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], 0.1)
    objective(batch(torch.ones(8, 2)), PROGRESS).loss.backward()
    optimizer.step()
    for key, value in objective.backbone.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert all(p.grad is not None for p in objective.head.parameters())
    assert objective.head.training


def test_classification__learns_in_thirty_steps():
    objective = task(1)
    inputs = batch(torch.tensor([[0.0], [1.0]] * 4))
    optimizer = torch.optim.Adam(objective.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(inputs, PROGRESS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in objective.parameters())


def test_classification__needs_targets():
    with pytest.raises(DataError, match="needs targets"):
        task()(batch(None), PROGRESS)


def test_tasks__are_found_by_name():
    assert resolve("classification") == (ClassificationConfig, Classification)
    assert "classification" in TASKS
    with pytest.raises(ConfigError, match="Did you mean 'classification'"):
        resolve("clasification")
