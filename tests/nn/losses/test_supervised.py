import math

import pytest
import torch
import torch.nn.functional as F

from scoutview.nn.losses.supervised import masked_binary_cross_entropy, masked_cross_entropy

IGNORE = -100


def test_masked_binary_cross_entropy__is_the_mean_over_known_labels():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
    targets = torch.tensor([[1.0, IGNORE], [0.0, 1.0]], dtype=torch.float64)
    terms = [
        -math.log(1 / (1 + math.exp(-0.3))),
        -math.log(1 - 1 / (1 + math.exp(-2.0))),
        -math.log(1 / (1 + math.exp(-0.5))),
    ]
    actual = masked_binary_cross_entropy(logits, targets, ignore=IGNORE)
    assert float(actual) == pytest.approx(sum(terms) / 3, rel=1e-12)


def test_masked_binary_cross_entropy__gives_missing_labels_no_gradient():
    logits = torch.zeros(2, 2, requires_grad=True)
    targets = torch.tensor([[1.0, IGNORE], [0.0, 1.0]])
    masked_binary_cross_entropy(logits, targets, ignore=IGNORE).backward()
    assert logits.grad[0, 1] == 0
    assert logits.grad[0, 0] != 0


def test_masked_losses__of_no_known_label_are_zero_with_zero_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    loss = masked_binary_cross_entropy(logits, torch.full((3, 2), IGNORE), ignore=IGNORE)
    loss = loss + masked_cross_entropy(logits, torch.full((3,), IGNORE), ignore=IGNORE)
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().max() == 0


def test_masked_cross_entropy__equals_torch_on_the_known_rows():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 3, IGNORE, 2, 1, IGNORE])
    known = targets != IGNORE
    expected = F.cross_entropy(logits[known], targets[known], label_smoothing=0.1)
    actual = masked_cross_entropy(logits, targets, ignore=IGNORE, smoothing=0.1)
    torch.testing.assert_close(actual, expected)
