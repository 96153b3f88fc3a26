import math

import pytest
import torch
import torch.nn.functional as F

from scoutview.nn.losses.contrastive import info_nce
from scoutview.nn.losses.margin import log_sum_exp, margin_nce


def unit_rows(n, dim, seed):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, dim, generator=random, dtype=torch.float64), dim=1)


def test_margin_nce__equals_the_paper_equation():
    cosines, temperature, margin = [0.3, -0.2, 0.9], 0.2, -0.5
    queries, bank = unit_rows(3, 6, 0), unit_rows(11, 6, 1)
    negatives = torch.logsumexp(queries @ bank.T / temperature, dim=1)
    found = margin_nce(
        torch.tensor(cosines, dtype=torch.float64),
        negatives,
        temperature=temperature,
        margin=margin,
    )
    for i, cosine in enumerate(cosines):
        positive = math.exp((cosine - margin) / temperature)
        others = sum(math.exp(float(queries[i] @ row) / temperature) for row in bank)
        assert float(found[i]) == pytest.approx(-math.log(positive / (positive + others)))


def test_margin_nce__turns_the_angle_by_the_arc_margin():
    angle = torch.tensor([0.4, 1.2, 3.0, 0.1], dtype=torch.float64)
    negatives = torch.zeros(4, dtype=torch.float64)
    for arc in (0.3, -0.3):
        found = margin_nce(angle.cos(), negatives, temperature=0.5, arc_margin=arc)
        for i, theta in enumerate(angle.tolist()):
            turned = math.cos(theta + arc)
            if not 0 < theta + arc < math.pi:  # the cosine would rise again
                turned = math.cos(theta) - arc * math.sin(abs(arc))
            expected = math.log1p(math.exp(-turned / 0.5))
            assert float(found[i]) == pytest.approx(expected, rel=1e-6)


def test_margin_nce__has_a_gradient_at_a_perfect_positive():
    cosine = torch.ones(2, requires_grad=True)
    margin_nce(cosine, torch.zeros(2), temperature=0.2, arc_margin=0.5).sum().backward()
    assert torch.isfinite(cosine.grad).all()


def test_margin_nce__without_margin_is_info_nce():
    query, key, queue = unit_rows(5, 8, 0), unit_rows(5, 8, 1), unit_rows(40, 8, 2)
    negatives, _ = log_sum_exp(query, queue, temperature=0.1)
    found = margin_nce((query * key).sum(dim=1), negatives, temperature=0.1).mean()
    torch.testing.assert_close(found, info_nce(query, key, queue, temperature=0.1))


@pytest.mark.parametrize("farthest", [False, True])
def test_log_sum_exp__equals_autograd_over_the_listed_vectors(farthest, monkeypatch):
    monkeypatch.setattr("scoutview.nn.losses.margin._block_rows", lambda query: 7)
    query, bank = unit_rows(4, 5, 0), unit_rows(60, 5, 1)
    labels, own = torch.arange(60) % 3, torch.tensor([0, 2, 1, 1])
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(2))[:40]
    cut = torch.tensor([0.1, -0.3, 0.2, 0.0], dtype=torch.float64)
    leaf = query.clone().requires_grad_()
    found, count = log_sum_exp(
        leaf,
        bank,
        temperature=0.07,
        rows=rows,
        labels=labels,
        own=own,
        cut=cut,
        farthest=farthest,
    )
    weights = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    (found * weights).sum().backward()
    other = query.clone().requires_grad_()
    cosines = other @ bank[rows].T
    beyond = cosines > cut[:, None] if farthest else cosines < cut[:, None]
    kept = ~(beyond | (labels[rows] == own[:, None]))
    expected = torch.logsumexp((cosines / 0.07).masked_fill(~kept, -math.inf), dim=1)
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(leaf.grad, other.grad)
    assert count.tolist() == kept.sum(dim=1).tolist()


def test_log_sum_exp__of_nothing_costs_nothing():
    query = unit_rows(2, 4, 0).requires_grad_()
    labels = torch.zeros(9, dtype=torch.int64)
    own = torch.tensor([0, 1])
    found, count = log_sum_exp(query, unit_rows(9, 4, 1), temperature=0.2, labels=labels, own=own)
    assert count.tolist() == [0, 9]
    loss = margin_nce(torch.zeros(2).double(), found, temperature=0.2)
    loss.sum().backward()
    assert float(loss[0].detach()) == 0
    assert torch.equal(query.grad[0], torch.zeros(4).double())
    assert query.grad[1].abs().max() > 0


def test_log_sum_exp__survives_small_temperatures_in_float32():
    query = unit_rows(2, 4, 0).float()
    bank = torch.cat([-query, query])
    found, _ = log_sum_exp(query, bank, temperature=0.005)
    torch.testing.assert_close(found, torch.logsumexp(query @ bank.T / 0.005, dim=1))
