import pytest
import torch
import torch.distributed as dist
from tests.processes import run_ranks
from torch import nn

from scoutview.nn.crop_memory import CropMemory
from scoutview.nn.sweep import encode_sweep, merged


def test_encode_sweep__runs_in_evaluation_mode_and_leaves_modes_alone():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    network[2].eval()
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    statistics = network[1].running_mean.clone()
    parts = [(torch.arange(4), x[:4]), (torch.arange(4, 7), x[4:])]
    rows, features = encode_sweep(parts, network[:2], network[2:])
    assert [m.training for m in network] == [True, True, False]
    assert torch.equal(network[1].running_mean, statistics)
    assert torch.equal(rows, torch.arange(7))
    assert not features.requires_grad
    torch.testing.assert_close(features, network.eval()(x))


def test_crop_memory__remembers_the_last_rows_of_an_image():
    memory = CropMemory(2, 5, 3).double()
    values = torch.arange(2 * 3 * 3, dtype=torch.float64).view(2, 3, 3)
    memory.write(torch.tensor([4, 1, 4]), values)
    assert torch.equal(memory.rows[:, 4], values[:, 2])
    assert torch.equal(memory.rows[:, 1], values[:, 1])
    assert memory.filled.tolist() == [False, True, False, False, True]
    rows, vectors, positions = memory.share(1)
    assert rows.tolist() == [1, 4]
    assert positions.tolist() == [0, 1]
    assert torch.equal(vectors, values[1, 1:])


def unequal_shares():
    """Rank 0 knows rows 5, 0 and 3, rank 1 knows row 1; nobody knows 2 and 4."""
    first = dist.get_rank() == 0
    rows = torch.tensor([5, 0, 3] if first else [1])
    memory = CropMemory(2, 6, 2)
    memory.fill(rows, rows[:, None] * torch.ones(2))
    numbers = merged(rows, 10 * rows, into=torch.full((6,), -100))
    return numbers, memory.rows, memory.filled, memory.share(0)


@pytest.mark.ddp
def test_merged__brings_unequal_shares_together():
    for rank, (numbers, rows, filled, share) in enumerate(run_ranks(unequal_shares, 2)):
        assert numbers.tolist() == [0, 10, -100, 30, -100, 50]
        assert rows[:, :, 0].tolist() == [[0.0, 1.0, 0.0, 3.0, 0.0, 5.0]] * 2
        assert filled.tolist() == [True, True, False, True, False, True]
        assert share[0].tolist() == ([0, 1], [3, 5])[rank]
        assert share[2].tolist() == ([0, 1], [2, 3])[rank]
