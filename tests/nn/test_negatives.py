import math

import pytest
import torch
import torch.nn.functional as F

from scoutview.nn import negatives
from scoutview.nn.negatives import drawn_rows, nearest_rows, negatives_log_sum_exp, spread_rows

TEMPERATURE = 0.2


def data(n, *, clusters=4, dim=8, queries=6):
    """A clustered bank of unit vectors with labels, and queries with theirs."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(clusters, dim, generator=random, dtype=torch.float64)
    labels = torch.randint(clusters, (n,), generator=random)
    noise = torch.randn(n, dim, generator=random, dtype=torch.float64)
    bank = F.normalize(centres[labels] + noise, dim=1)
    return bank, labels, bank[:queries].clone(), labels[:queries].clone()


def others(labels, own):
    return (labels != own[:, None]).sum(dim=1)


def by_list(query, bank, labels, own, count, sampling):
    """Sort the candidates of one query after the other; every row of the pool, weighted to K."""
    out = []
    for q, label in zip(query, own, strict=True):
        cosines = sorted((float(q @ row) for row in bank[labels != label]), reverse=True)
        size = len(cosines)
        pool = (size + 9) // 10
        chosen = {
            "semihard": cosines[:pool],
            "semieasy": cosines[-pool:],
            "hard": cosines[:count],
            "random": cosines,
        }[sampling]
        mean = sum(math.exp(c / TEMPERATURE) for c in chosen) / len(chosen)
        out.append(math.log(min(count, len(chosen)) * mean))
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("sampling", ["semihard", "hard", "random", "semieasy"])
@pytest.mark.parametrize("count", [3, 20, 1000])
def test_small_bank__counts_exactly_the_pool(sampling, count):
    bank, labels, query, own = data(130)
    found, wanted = negatives_log_sum_exp(
        query,
        bank,
        labels,
        own=own,
        others=others(labels, own),
        count=count,
        temperature=TEMPERATURE,
        sampling=sampling,
    )
    expected = by_list(query, bank, labels, own, count, sampling)
    torch.testing.assert_close(found, expected)
    pool = torch.ceil(others(labels, own) / 10) if "semi" in sampling else others(labels, own)
    assert wanted.tolist() == pool.clamp_max(count).tolist()


def test_pool_of_the_bank__is_the_reference_form():
    bank, labels, query, own = data(100)
    found, _ = negatives_log_sum_exp(
        query,
        bank,
        labels,
        own=own,
        others=others(labels, own),
        count=10,
        temperature=TEMPERATURE,
        pool=0.4,
        pool_of="bank",
    )
    for i, near in enumerate(nearest_rows(query, bank, 40)):
        kept = near[labels[near] != own[i]]
        mean = (bank[kept] @ query[i] / TEMPERATURE).exp().mean()
        assert float(found[i]) == pytest.approx(math.log(10 * float(mean)))


@pytest.mark.parametrize("sampling", ["semihard", "hard", "random", "semieasy"])
@pytest.mark.parametrize("quantile_rows", [8192, 1000])
def test_drawn_rows__stand_for_the_whole_bank(sampling, quantile_rows, monkeypatch):
    """Over many draws the log-sum-exp has the value of the whole bank, within the noise."""
    monkeypatch.setattr(negatives, "_QUANTILE_ROWS", quantile_rows)
    bank, labels, query, own = data(40_000, clusters=20, queries=16)
    options = {
        "own": own,
        "others": others(labels, own),
        "count": 300,
        "temperature": TEMPERATURE,
        "sampling": sampling,
    }
    found = []
    for seed in range(12):
        random = torch.Generator().manual_seed(seed)
        draws = torch.randint(40_000, (drawn_rows(sampling, 300, 0.1) + 1,), generator=random)
        rows = spread_rows(draws, 40_000)
        found.append(negatives_log_sum_exp(query, bank, labels, rows=rows, **options)[0])
    exact, _ = negatives_log_sum_exp(query, bank, labels, **options)
    bias = (torch.stack(found).mean(dim=0) - exact).mean()
    assert abs(float(bias)) < 0.015  # cuts from 1,000 of the drawn rows are 10 % wrong


def test_rows_gathered_before__give_the_same_as_rows_gathered_here():
    bank, labels, query, own = data(5000)
    rows = spread_rows(torch.arange(0, 5000, 5)[:901], 5000)
    options = {"own": own, "others": others(labels, own), "count": 90, "temperature": TEMPERATURE}
    here = negatives_log_sum_exp(query, bank, labels, rows=rows, **options)
    before = negatives_log_sum_exp(query, bank[rows], labels[rows], length=5000, **options)
    torch.testing.assert_close(here, before)


def test_spread_rows__are_distinct_and_equally_likely():
    random = torch.Generator().manual_seed(0)
    seen = torch.zeros(47)
    for _ in range(4000):
        rows = spread_rows(torch.randint(47, (11,), generator=random), 47)
        assert len(rows.unique()) == 10
        seen[rows] += 1
    expected = 4000 * 10 / 47
    assert float(((seen - expected) ** 2 / expected).sum()) < 80  # chi-square, 46 degrees


def test_gradient__is_that_of_the_listed_pool():
    bank, labels, query, own = data(90)
    leaf, other = query.clone().requires_grad_(), query.clone().requires_grad_()
    negatives_log_sum_exp(
        leaf,
        bank,
        labels,
        own=own,
        others=others(labels, own),
        count=4,
        temperature=TEMPERATURE,
        sampling="hard",
    )[0].sum().backward()
    near = nearest_rows(query, bank, 4, labels=labels, own=own)  # (B, K)
    listed = (bank[near] * other[:, None]).sum(dim=2) / TEMPERATURE
    torch.logsumexp(listed, dim=1).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_one_cluster__leaves_no_negatives_and_no_nan():
    bank, _, query, _ = data(50)
    labels, own = torch.zeros(50, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)
    leaf = query.clone().requires_grad_()
    for sampling in ("semihard", "hard", "random", "semieasy"):
        found, wanted = negatives_log_sum_exp(
            leaf,
            bank,
            labels,
            own=own,
            others=others(labels, own),
            count=4,
            temperature=TEMPERATURE,
            sampling=sampling,
        )
        assert torch.isneginf(found).all()
        assert wanted.tolist() == [0.0] * 6
