import numpy as np
import ot
import pytest
import torch
from tests.processes import run_ranks

from scoutview.nn.clustering import needs_log_domain, sinkhorn


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


def part_of_sinkhorn(log_domain):
    import torch.distributed as dist

    part = cosines().chunk(dist.get_world_size())[dist.get_rank()]
    return sinkhorn(part, epsilon=0.05, iterations=3, log_domain=log_domain)


@pytest.mark.ddp
@pytest.mark.parametrize("log_domain", [False, True])
def test_sinkhorn__assigns_the_rows_of_all_processes_together(log_domain):
    parts = run_ranks(part_of_sinkhorn, 2, log_domain)
    whole = sinkhorn(cosines(), epsilon=0.05, iterations=3)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-14)
