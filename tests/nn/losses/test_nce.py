import copy
import math

import pytest
import torch
import torch.nn.functional as F
from tests.processes import run_ranks

from scoutview.nn.gather import rank
from scoutview.nn.losses.nce import (
    ConstantZ,
    bank_logits,
    bank_softmax,
    constant_nce,
    full_softmax,
    share_nce,
    share_nce_chance,
)

WORLD = 2


def unit_rows(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def logits(batch=4, negatives=6, scale=10.0):
    return scale * unit_rows(batch, 1 + negatives)


def constant_nce_by_hand(logits, z, images, epsilon):
    """Equations 4 to 7 of arXiv:1805.01978, one number at a time."""
    total = 0.0
    for positive, *negatives in logits.tolist():
        noise = len(negatives) / images
        p = math.exp(positive) / z
        total -= math.log(p / (p + noise + epsilon))
        for negative in negatives:
            p = math.exp(negative) / z
            total -= math.log(noise / (p + noise + epsilon))
    return total / len(logits)


@pytest.mark.parametrize("epsilon", [0.0, 1e-7, 0.01])
def test_constant_nce__equals_the_paper_equations(epsilon):
    s, z = logits(), 37.0
    log_z = torch.tensor(math.log(z), dtype=s.dtype)
    expected = constant_nce_by_hand(s, z, 50, epsilon)
    actual = constant_nce(s, log_z, images=50, epsilon=epsilon)
    assert float(actual) == pytest.approx(expected, rel=1e-12)


def test_constant_nce__stays_finite_where_exp_overflows():
    s = torch.tensor([[-300.0, 300.0, 0.0]], requires_grad=True)
    loss = constant_nce(s, torch.tensor(0.0), images=10)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(600.0, rel=0.02)  # both are wrong by 300 nats
    torch.testing.assert_close(s.grad[0, :2], torch.tensor([-1.0, 1.0]))


def test_share_nce__equals_the_paper_equation():
    s, total = logits(), 0.0
    for row in s.tolist():
        shares = [math.exp(v) / sum(math.exp(w) for w in row) for v in row]
        total -= math.log(shares[0]) + sum(math.log(1 - h) for h in shares[1:])
    assert float(share_nce(s)) == pytest.approx(total / len(s), rel=1e-12)


def test_share_nce__stays_finite_when_a_negative_takes_all():
    s = torch.tensor([[0.0, 200.0, 0.0]], requires_grad=True)
    loss = share_nce(s)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert torch.isfinite(s.grad).all()
    assert float(s.grad[0, 0]) < 0 < float(s.grad[0, 1])


def test_share_nce_chance__is_the_loss_of_equal_logits():
    assert float(share_nce(torch.zeros(3, 8))) == pytest.approx(share_nce_chance(7), rel=1e-6)


def test_bank_logits__shared_negatives_equal_the_same_ones_for_each():
    query, own, negatives = unit_rows(4, 5), unit_rows(4, 5, seed=1), unit_rows(6, 5, seed=2)
    shared = bank_logits(query, own, negatives, temperature=0.2)
    each = bank_logits(query, own, negatives.expand(4, 6, 5), temperature=0.2)
    torch.testing.assert_close(shared, each)
    assert float(shared[2, 0]) == pytest.approx(float(query[2] @ own[2]) / 0.2)
    assert float(shared[2, 4]) == pytest.approx(float(query[2] @ negatives[3]) / 0.2)
    expected = F.cross_entropy(shared, torch.zeros(4, dtype=torch.int64))
    for given in (negatives, negatives.expand(4, 6, 5)):
        torch.testing.assert_close(bank_softmax(query, own, given, temperature=0.2), expected)


def test_full_softmax__is_the_loss_of_the_own_row_among_all():
    query, bank = unit_rows(2, 5), unit_rows(7, 5, seed=1)
    rows, total = torch.tensor([6, 0]), 0.0
    for q, row in zip(query, rows.tolist(), strict=True):
        scores = [math.exp(float(q @ v) / 0.3) for v in bank]
        total -= math.log(scores[row] / sum(scores))
    actual = full_softmax(query, bank, rows, temperature=0.3)
    assert float(actual) == pytest.approx(total / 2, rel=1e-12)


def test_constant_z__is_measured_once_and_kept():
    constant, s = ConstantZ().double(), logits()
    expected = 50 * s.exp().mean().log().exp()
    assert float(constant(s, images=50).exp()) == pytest.approx(float(expected), rel=1e-12)
    # a later part of the first step, and all later steps, take it as it is
    assert float(constant(s + 1, images=50).exp()) == pytest.approx(float(expected), rel=1e-12)
    constant.fix()
    assert float(constant(s + 1, images=50).exp()) == pytest.approx(float(expected), rel=1e-12)


def test_constant_z__survives_a_checkpoint():
    constant, loaded = ConstantZ(), ConstantZ()
    constant(logits().float(), images=50)
    constant.fix()
    assert not loaded.log_z.isfinite()
    loaded(logits(scale=3.0).float(), images=50)
    fresh = copy.deepcopy(ConstantZ())
    fresh.load_state_dict(constant.state_dict())
    assert torch.equal(fresh(logits(scale=3.0).float(), images=50), constant.log_z)


def measured():
    s = logits().chunk(WORLD)[rank()]
    return float(ConstantZ().double()(s, images=50))


@pytest.mark.ddp
def test_constant_z__is_that_of_the_global_batch():
    expected = float(ConstantZ().double()(logits(), images=50))
    assert run_ranks(measured, WORLD) == pytest.approx([expected] * WORLD, rel=1e-12)
