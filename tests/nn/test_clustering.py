import numpy as np
import ot
import pytest
import torch
from tests.processes import run_ranks

from scoutview.nn.clustering import BesideQueue, needs_log_domain, sinkhorn


def cosines(n=24, k=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=1)
    prototypes = torch.nn.functional.normalize(torch.randn(k, 5, generator=generator), dim=1)
    return (rows @ prototypes.T).to(dtype)


@pytest.mark.parametrize("log_domain", [False, True])
def test_sinkhorn__converges_to_the_optimal_transport_plan(log_domain):
    scores = cosines()
    n, k = scores.shape
    plan = ot.sinkhorn(np.full(n, 1 / n), np.full(k, 1 / k), -scores.numpy(), reg=0.1)
    q = sinkhorn(scores, epsilon=0.1, iterations=500, log_domain=log_domain)
    np.testing.assert_allclose(q.numpy() / n, plan, atol=1e-8)


def test_sinkhorn__rows_sum_to_one_and_clusters_become_equal():
    q = sinkhorn(cosines(), epsilon=0.05, iterations=1000)
    torch.testing.assert_close(q.sum(dim=1), torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(q.sum(dim=0), torch.full((6,), 4.0, dtype=torch.float64))


def test_sinkhorn__log_domain_gives_the_same_after_few_rounds():
    fast = sinkhorn(cosines(), epsilon=0.05, iterations=3)
    slow = sinkhorn(cosines(), epsilon=0.05, iterations=3, log_domain=True)
    torch.testing.assert_close(fast, slow)


def test_sinkhorn__log_domain_holds_where_float32_underflows():
    epsilon = 0.005
    assert needs_log_domain(epsilon)
    exact = sinkhorn(cosines(), epsilon=epsilon, iterations=3)
    narrow = sinkhorn(cosines(dtype=torch.float32), epsilon=epsilon, iterations=3, log_domain=True)
    assert torch.isfinite(narrow).all()
    torch.testing.assert_close(narrow.double(), exact, atol=1e-4, rtol=1e-3)


def test_sinkhorn__plain_form_is_enough_at_the_published_epsilon():
    assert not needs_log_domain(0.05)
    exact = sinkhorn(cosines(), epsilon=0.05, iterations=3)
    narrow = sinkhorn(cosines(dtype=torch.float32), epsilon=0.05, iterations=3)
    torch.testing.assert_close(narrow.double(), exact, atol=1e-5, rtol=1e-4)


def test_sinkhorn__keep_returns_the_last_rows_of_the_whole():
    whole = sinkhorn(cosines(), epsilon=0.05, iterations=3)
    last = sinkhorn(cosines(), epsilon=0.05, iterations=3, keep=5)
    torch.testing.assert_close(last, whole[-5:])


def embedded(n=24, k=6, dim=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    rows, prototypes = torch.randn(n + k, dim, generator=generator).split([n, k])
    unit = torch.nn.functional.normalize
    return unit(rows, dim=1).to(dtype), unit(prototypes, dim=1).to(dtype)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_beside_queue__equals_sinkhorn_of_all_scores(epsilon):
    rows, prototypes = embedded()
    scores = rows @ prototypes.T
    expected = sinkhorn(
        scores, epsilon=epsilon, iterations=3, keep=4, log_domain=needs_log_domain(epsilon)
    )
    actual = BesideQueue(epsilon=epsilon, iterations=3).assign(rows[:-4], prototypes, scores[-4:])
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_beside_queue__gives_results_that_the_next_call_leaves_alone():
    rows, prototypes = embedded()
    scores = rows @ prototypes.T
    beside = BesideQueue(epsilon=0.05, iterations=3)
    first = beside.assign(rows[:20], prototypes, scores[20:])
    kept = first.clone()
    again = beside.assign(rows[4:], prototypes, scores[:4])  # the same sizes, other rows
    narrow = beside.assign(rows[:20].float(), prototypes.float(), scores[20:].float())
    assert torch.equal(first, kept)
    assert not torch.equal(again, kept)
    torch.testing.assert_close(narrow.double(), kept, atol=1e-5, rtol=1e-4)


def part_of_sinkhorn(log_domain):
    import torch.distributed as dist

    part = cosines().chunk(dist.get_world_size())[dist.get_rank()]
    return sinkhorn(part, epsilon=0.05, iterations=3, log_domain=log_domain)


def part_beside_a_queue():
    import torch.distributed as dist

    rows, prototypes = (x.clone() for x in embedded())
    own = rows.chunk(dist.get_world_size())[dist.get_rank()]  # (12, 5)
    beside = BesideQueue(epsilon=0.05, iterations=3)
    return beside.assign(own[:9], prototypes, own[9:] @ prototypes.T)


@pytest.mark.ddp
def test_beside_queue__assigns_the_rows_of_all_processes_together():
    rows, prototypes = embedded()
    whole = sinkhorn(rows @ prototypes.T, epsilon=0.05, iterations=3)
    parts = run_ranks(part_beside_a_queue, 2)
    expected = torch.cat([whole[9:12], whole[21:]])
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.ddp
@pytest.mark.parametrize("log_domain", [False, True])
def test_sinkhorn__assigns_the_rows_of_all_processes_together(log_domain):
    parts = run_ranks(part_of_sinkhorn, 2, log_domain)
    whole = sinkhorn(cosines(), epsilon=0.05, iterations=3)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-14)
