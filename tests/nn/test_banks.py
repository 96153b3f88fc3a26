import copy

import pytest
import torch
import torch.nn.functional as F
from tests.processes import run_ranks

from scoutview.base.errors import ConfigError
from scoutview.nn.banks import MemoryBank
from scoutview.nn.gather import rank

WORLD = 2


def bank(length=20, dim=4, **settings):
    torch.manual_seed(0)
    return MemoryBank(length, dim, **settings)


def values(n, dim=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, dim, generator=generator), dim=1)


def test_bank__starts_with_unit_vectors():
    assert torch.allclose(bank().rows.norm(dim=1), torch.ones(20))


def test_read__gives_rows_in_any_shape():
    memory = bank()
    rows = torch.tensor([[3, 1], [3, 19]])
    assert torch.equal(memory.read(rows), memory.rows[rows])


@pytest.mark.parametrize("momentum", [1.0, 0.5, 0.2])
def test_write__moves_a_row_by_the_weight_of_the_new_value(momentum):
    memory, rows, new = bank(), torch.tensor([4, 0, 9]), values(3)
    before = memory.rows.clone()
    memory.write(rows, new, momentum=momentum)
    for row, value in zip(rows.tolist(), new, strict=True):
        mixed = [(1 - momentum) * o + momentum * v for o, v in zip(before[row], value, strict=True)]
        length = sum(m**2 for m in mixed) ** 0.5
        torch.testing.assert_close(memory.rows[row], torch.stack(mixed) / length)
    others = [r for r in range(20) if r not in rows.tolist()]
    assert torch.equal(memory.rows[others], before[others])


def test_write__takes_the_last_value_of_a_row_that_stands_twice():
    memory, new = bank(), values(4)
    memory.write(torch.tensor([7, 2, 7, 5]), new, momentum=0.5)
    alone = bank()
    alone.write(torch.tensor([2, 7, 5]), new[1:], momentum=0.5)
    assert torch.equal(memory.rows, alone.rows)


def test_write__copies_nothing_and_keeps_no_graph():
    memory = bank()
    place = memory.rows.data_ptr()
    memory.write(torch.tensor([1]), values(1).requires_grad_())
    assert memory.rows.data_ptr() == place
    assert not memory.rows.requires_grad


def test_sample__never_draws_what_it_must_avoid_and_all_others_equally_often():
    avoid = torch.tensor([5, 0, 5, 19, 6])
    drawn = bank().sample(160_000, step=0, avoid=avoid)
    counts = torch.bincount(drawn, minlength=20)
    assert len(counts) == 20
    assert counts[[0, 5, 6, 19]].sum() == 0
    others = [r for r in range(20) if r not in (0, 5, 6, 19)]
    # 16 rows at 10,000 each; 5 standard deviations of a binomial count are 485
    assert (counts[others] - 10_000).abs().max() < 485


def test_sample__of_the_whole_bank_reaches_every_row():
    assert set(bank().sample(1000, step=0).tolist()) == set(range(20))


def test_sample_each__never_draws_the_row_itself_and_all_others_equally_often():
    rows = torch.tensor([0, 7, 19])
    drawn = bank().sample_each(rows, 190_000, step=0)
    for row, of_row in zip(rows.tolist(), drawn, strict=True):
        counts = torch.bincount(of_row, minlength=20)
        assert counts[row] == 0
        assert (counts[[r for r in range(20) if r != row]] - 10_000).abs().max() < 490


def test_draws__depend_on_step_and_stream_alone_and_survive_a_checkpoint():
    memory, other = bank(), MemoryBank(20, 4)
    first = memory.sample(50, step=3)
    assert torch.equal(first, memory.sample(50, step=3))
    assert not torch.equal(first, memory.sample(50, step=4))
    assert not torch.equal(first, memory.sample(50, step=3, stream=1))
    assert not torch.equal(first, other.sample(50, step=3))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(first, other.sample(50, step=3))
    assert torch.equal(first, copy.deepcopy(memory).double().sample(50, step=3))


def test_sample__refuses_a_batch_that_leaves_no_image():
    memory = bank(length=4)
    assert memory.sample(3, step=0, avoid=torch.tensor([0, 1, 3])).tolist() == [2, 2, 2]
    with pytest.raises(ConfigError, match="5 are needed, there are 4"):
        memory.sample(3, step=0, avoid=torch.arange(4))
    with pytest.raises(ConfigError, match="there are 1"):
        bank(length=1).sample_each(torch.tensor([0]), 3, step=0)


# --- several processes -----------------------------------------------------------------------


ROWS = torch.tensor([[3, 0, 18, 3], [8, 18, 20, 1]])
"""Rows of each process; 3 stands twice in one, 18 in both."""


def used(*, sharded: bool) -> dict:
    """Write twice from two processes, then look at everything."""
    memory = bank(21, sharded=sharded).double()
    for step in (0, 1):
        new = values(8, seed=step).double()
        memory.write(ROWS[rank()], new[4 * rank() : 4 * rank() + 4], momentum=0.5)
    numbers, owned = memory.owned()
    restored = bank(21, sharded=sharded).double()
    restored.load_state_dict(memory.state_dict())
    return {
        "all": memory.read(torch.arange(21), same=True).numpy(),
        "mine": memory.read(ROWS[rank()].view(2, 2)).numpy(),
        "restored": restored.read(torch.arange(21), same=True).numpy(),
        "numbers": numbers.numpy(),
        "owned": owned.numpy(),
        "bytes": memory.rows.nbytes,
        "buffers": [name for name, _ in memory.named_buffers()],
        "shared": memory.sample(30, step=5, avoid=ROWS[rank()]).numpy(),
        "each": memory.sample_each(ROWS[rank()], 30, step=5).numpy(),
    }


def both() -> tuple[dict, dict]:
    return used(sharded=False), used(sharded=True)


def refusal() -> str:
    try:
        bank(21, sharded=True).load_state_dict(bank(21).state_dict())
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.ddp
def test_two_processes__hold_the_bank_of_one_whole_or_in_shards():
    one = bank(21).double()
    for step in (0, 1):
        one.write(ROWS.flatten(), values(8, seed=step).double(), momentum=0.5)
    each = one.sample_each(ROWS.flatten(), 30, step=5)
    found = run_ranks(both, WORLD)
    for number, results in enumerate(found):
        for result in results:
            assert torch.equal(torch.from_numpy(result["all"]), one.rows)
            assert torch.equal(torch.from_numpy(result["restored"]), one.rows)
            assert torch.equal(torch.from_numpy(result["mine"]), one.rows[ROWS[number].view(2, 2)])
            numbers = torch.from_numpy(result["numbers"])
            assert torch.equal(torch.from_numpy(result["owned"]), one.rows[numbers])
            drawn = one.sample(30, step=5, avoid=ROWS.flatten())
            assert torch.equal(torch.from_numpy(result["shared"]), drawn)
            expected = each[4 * number : 4 * number + 4]
            assert torch.equal(torch.from_numpy(result["each"]), expected)
        whole, shard = results
        assert 21 * shard["bytes"] == 12 * whole["bytes"]  # 11 places of 21, and the spare one
        assert "rows" in whole["buffers"]
        assert "rows" not in shard["buffers"]  # or data-parallel wrappers would overwrite it
    numbers = sorted(n for _, shard in found for n in shard["numbers"].tolist())
    assert numbers == list(range(21))


@pytest.mark.ddp
def test_shard__refuses_the_state_of_another_number_of_processes():
    for message in run_ranks(refusal, WORLD):
        assert "as many processes" in message


def round_trip() -> tuple:
    """A shard out of a whole bank is the shard it came from."""
    memory = bank(21, sharded=True)
    whole = memory.whole()
    again = memory.part_of(bank(21).rows if whole is None else whole)
    return None if whole is None else whole.numpy(), torch.equal(again, memory.rows)


@pytest.mark.ddp
def test_whole__puts_the_rows_of_all_shards_in_order():
    rows = []
    for whole, same in run_ranks(round_trip, WORLD):
        rows.append(whole)
        assert same
    assert rows[1] is None
    assert torch.equal(torch.from_numpy(rows[0]), bank(21).rows)
