import pytest
import torch
import torch.distributed as dist
from tests.processes import run_ranks

from scoutview.nn.gather import all_gather, all_sum, rank, shuffled, unshuffled, world_size

WORLD = 2


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, generator=generator, dtype=torch.float64)


def weight():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def coupled_loss(z):
    """Every row meets every other row."""
    return (z @ z.T).square().mean() + z.sum(dim=0).square().sum()


def gather_gradient():
    """Gradient of the weights after the mean over processes, as data-parallel training takes it."""
    x = images().chunk(WORLD)[rank()]
    w = weight().requires_grad_()
    coupled_loss(all_gather(x @ w)).backward()
    dist.all_reduce(w.grad)
    return (w.grad / WORLD).numpy()


def sum_gradient():
    x = images().chunk(WORLD)[rank()]
    w = weight().requires_grad_()
    all_sum((x @ w).square().sum(dim=0)).square().sum().backward()
    dist.all_reduce(w.grad)
    return (w.grad / WORLD).numpy()


@pytest.mark.ddp
def test_all_gather__gives_the_one_process_gradient_after_the_mean():
    w = weight().requires_grad_()
    coupled_loss(images() @ w).backward()
    for actual in run_ranks(gather_gradient, WORLD):
        torch.testing.assert_close(torch.from_numpy(actual), w.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.ddp
def test_all_sum__gives_the_one_process_gradient_after_the_mean():
    w = weight().requires_grad_()
    (images() @ w).square().sum(dim=0).square().sum().backward()
    for actual in run_ranks(sum_gradient, WORLD):
        torch.testing.assert_close(torch.from_numpy(actual), w.grad, rtol=1e-12, atol=1e-12)


def shuffle_round_trip():
    mine = images().chunk(WORLD)[rank()]
    dealt, order = shuffled(mine, seed=3)
    return dealt.numpy(), unshuffled(dealt, order).numpy()


@pytest.mark.ddp
def test_shuffled__deals_images_across_processes_and_back():
    results = run_ranks(shuffle_round_trip, WORLD)
    dealt = torch.cat([torch.from_numpy(a) for a, _ in results])
    back = torch.cat([torch.from_numpy(b) for _, b in results])
    torch.testing.assert_close(back, images())
    assert not torch.equal(dealt, images())
    torch.testing.assert_close(dealt.sort(dim=0).values, images().sort(dim=0).values)


def test_collectives__return_their_input_in_one_process():
    x = images()
    assert world_size() == 1
    assert rank() == 0
    assert all_gather(x) is x
    assert all_sum(x) is x
