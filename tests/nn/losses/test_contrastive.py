import math

import pytest
import torch

from scoutview.nn.losses import contrastive
from scoutview.nn.losses.contrastive import info_nce, info_nce_logits, nt_xent


def pair(n=5, d=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=torch.float64)


def nt_xent_by_hand(z0, z1, temperature):
    """Equation 1 of arXiv:2002.05709, one anchor at a time."""
    z = torch.cat([z0, z1])
    z = z / z.norm(dim=1, keepdim=True)
    n, total = len(z0), 0.0
    for i in range(2 * n):
        sims = [math.exp(float(z[i] @ z[k]) / temperature) for k in range(2 * n)]
        total -= math.log(sims[(i + n) % (2 * n)] / (sum(sims) - sims[i]))
    return total / (2 * n)


def info_nce_by_hand(query, positive, negatives, temperature):
    """Equation 1 of arXiv:1911.05722, one query at a time."""
    total = 0.0
    for q, k in zip(query, positive, strict=True):
        own = math.exp(float(q @ k) / temperature)
        others = sum(math.exp(float(q @ n) / temperature) for n in negatives)
        total -= math.log(own / (own + others))
    return total / len(query)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent__equals_the_paper_equation(temperature):
    z0, z1 = pair()
    expected = nt_xent_by_hand(z0, z1, temperature)
    assert float(nt_xent(z0, z1, temperature=temperature)) == pytest.approx(expected, rel=1e-12)


def test_nt_xent__of_equal_images_is_the_chance_level():
    z = torch.ones(6, 4, dtype=torch.float64)
    assert float(nt_xent(z, z, temperature=0.1)) == pytest.approx(math.log(11))


def test_nt_xent__does_not_depend_on_scale_or_order():
    z0, z1 = pair()
    loss = nt_xent(z0, z1, temperature=0.2)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(nt_xent(3.0 * z0, 0.1 * z1, temperature=0.2), loss)
    torch.testing.assert_close(nt_xent(z0[order], z1[order], temperature=0.2), loss)
    torch.testing.assert_close(nt_xent(z1, z0, temperature=0.2), loss)


def test_nt_xent__gradient_equals_finite_differences():
    z0, z1 = pair(n=3, d=4)
    z0.requires_grad_()
    z1.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.5), (z0, z1))


def test_nt_xent__sum_of_views_is_twice_the_mean():
    z0, z1 = pair()
    mean = nt_xent(z0, z1, temperature=0.1)
    double = nt_xent(z0, z1, temperature=0.1, reduction="sum_of_views")
    assert float(double) == pytest.approx(2 * float(mean))


def test_info_nce__equals_the_paper_equation():
    query, positive = torch.nn.functional.normalize(pair(), dim=2)
    negatives = torch.nn.functional.normalize(pair(n=9, seed=1)[0], dim=1)
    expected = info_nce_by_hand(query, positive, negatives, 0.2)
    actual = info_nce(query, positive, negatives, temperature=0.2)
    assert float(actual) == pytest.approx(expected, rel=1e-12)


def test_info_nce__gradient_reaches_the_query_only_when_keys_are_detached():
    query, positive = torch.nn.functional.normalize(pair(), dim=2)
    query.requires_grad_()
    info_nce(query, positive, positive, temperature=0.2).backward()
    assert query.grad.abs().max() > 0


def info_nce_case(length=50, dtype=torch.float64):
    query, positive = torch.nn.functional.normalize(pair(), dim=2).to(dtype)
    negatives = torch.nn.functional.normalize(pair(n=length, seed=1)[0], dim=1).to(dtype)
    return query.clone().requires_grad_(), positive.clone().requires_grad_(), negatives


@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
@pytest.mark.parametrize("temperature", [0.005, 0.07, 0.2])
def test_info_nce__in_blocks_equals_cross_entropy_of_all_logits(monkeypatch, rows, temperature):
    monkeypatch.setattr(contrastive, "_block_rows", lambda query: rows)
    query, positive, negatives = info_nce_case()
    logits = info_nce_logits(query, positive, negatives, temperature=temperature)
    whole = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    parts = info_nce(query, positive, negatives, temperature=temperature)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    inputs = (query, positive)
    expected = torch.autograd.grad(3.0 * whole, inputs)
    actual = torch.autograd.grad(3.0 * parts, inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_info_nce__leaves_out_negatives_of_the_own_image(monkeypatch, rows):
    monkeypatch.setattr(contrastive, "_block_rows", lambda query: rows)
    query, positive, negatives = info_nce_case()
    own, images = torch.tensor([3, 9, 3, 70, 0]), torch.arange(50) % 10
    logits = info_nce_logits(query, positive, negatives, temperature=0.1)
    logits[:, 1:][own[:, None] == images] = -math.inf
    whole = torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    expected = torch.autograd.grad(whole, (query, positive))
    for others in (negatives, negatives.clone().requires_grad_()):
        loss = info_nce(query, positive, others, temperature=0.1, own=own, images=images)
        torch.testing.assert_close(loss, whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(loss, (query, positive)), expected)


def test_info_nce__gradient_equals_finite_differences_for_every_input():
    query, positive, negatives = info_nce_case(length=4)

    def loss(*inputs):
        return info_nce(*inputs, temperature=0.3)

    assert torch.autograd.gradcheck(loss, (query, positive, negatives))
    assert torch.autograd.gradcheck(loss, (query, positive, negatives.requires_grad_()))
