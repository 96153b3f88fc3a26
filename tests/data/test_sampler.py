import numpy as np
import pytest

from scoutview.base.errors import ConfigError
from scoutview.data.sampler import GroupSampler, PermutationSampler


def epoch_of(sampler, epoch):
    steps = sampler.steps_per_epoch
    drawn = [sampler.draw(step) for step in range(epoch * steps, (epoch + 1) * steps)]
    assert all((part.epochs == epoch).all() for part in drawn)
    return np.concatenate([part.positions for part in drawn])


def test_permutation_sampler__draws_every_image_once_an_epoch():
    sampler = PermutationSampler(1000, 50, seed=3)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(1000))
    assert (first != second).mean() > 0.9
    assert (first != epoch_of(PermutationSampler(1000, 50, seed=4), 0)).mean() > 0.9


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_permutation_sampler__deals_the_same_global_batch_to_any_number_of_processes(
    world, drop_last
):
    alone = PermutationSampler(103, 8, seed=0, drop_last=drop_last)
    ranks = [
        PermutationSampler(103, 8, seed=0, rank=rank, world=world, drop_last=drop_last)
        for rank in range(world)
    ]
    for step in range(30):
        together = np.concatenate([rank.draw(step).positions for rank in ranks])
        np.testing.assert_array_equal(together, alone.draw(step).positions)


def test_permutation_sampler__with_the_last_batch_draws_all():
    sampler = PermutationSampler(103, 8, seed=0, drop_last=False)
    assert sampler.steps_per_epoch == 13
    assert len(sampler.draw(12).positions) == 7
    assert sorted(epoch_of(sampler, 2).tolist()) == list(range(103))


def test_permutation_sampler__gives_the_same_batch_at_any_step_without_a_history():
    sampler = PermutationSampler(105_000_000, 4096, seed=0)
    far = sampler.draw(10**9)
    assert far.epochs[0] == 10**9 // sampler.steps_per_epoch
    np.testing.assert_array_equal(
        far.positions, PermutationSampler(105_000_000, 4096, seed=0).draw(10**9).positions
    )
    assert len(set(far.positions.tolist())) == 4096
    assert far.positions.min() >= 0
    assert far.positions.max() < 105_000_000


def test_permutation_sampler__is_uniform_over_the_images():
    # Chi-square over 100 bins of one batch per epoch: 99 degrees of freedom, 99.9 % below 149.
    sampler = PermutationSampler(10_000, 1000, seed=1)
    counts = np.zeros(100)
    for epoch in range(20):
        positions = sampler.draw(epoch * 10).positions
        counts += np.bincount(positions // 100, minlength=100)
    assert ((counts - 200) ** 2 / 200).sum() < 149


def test_permutation_sampler__names_the_largest_batch_that_works():
    with pytest.raises(ConfigError, match="largest that works is 102"):
        PermutationSampler(103, 200, seed=0, world=2)
    with pytest.raises(ConfigError, match="multiple of the 3 processes"):
        PermutationSampler(103, 10, seed=0, world=3)
    with pytest.raises(ConfigError, match="no images"):
        PermutationSampler(0, 1, seed=0, drop_last=False)


GROUPS = np.array([5] * 100 + [2] * 30 + [9] * 7)


def test_group_sampler__fills_every_part_of_every_batch_equally():
    alone = GroupSampler(GROUPS, 24, seed=0)
    ranks = [GroupSampler(GROUPS, 24, seed=0, rank=rank, world=2) for rank in range(2)]
    for step in range(20):
        for sampler, each in ((alone, 8), (ranks[0], 4), (ranks[1], 4)):
            groups = GROUPS[sampler.draw(step).positions]
            assert np.unique(groups, return_counts=True)[1].tolist() == [each] * 3
        together = [rank.draw(step).positions for rank in ranks]
        assert sorted(np.concatenate(together)) == sorted(alone.draw(step).positions)


def test_group_sampler__passes_each_group_evenly_and_counts_the_passes():
    sampler = GroupSampler(GROUPS, 21, seed=0)
    drawn = [sampler.draw(step) for step in range(30)]
    positions = np.concatenate([part.positions for part in drawn])
    epochs = np.concatenate([part.epochs for part in drawn])
    small = np.isin(positions, np.flatnonzero(GROUPS == 9))
    seen = np.bincount(positions[small] - 130)
    assert seen.tolist() == [30] * 7
    pairs = set(zip(positions.tolist(), epochs.tolist(), strict=True))
    assert len(pairs) == len(positions), "no image twice in one pass, so no view twice"
    large = np.isin(positions, np.flatnonzero(GROUPS == 5))
    assert np.bincount(positions[large]).max() <= 3


def test_group_sampler__explains_a_batch_that_cannot_be_split():
    with pytest.raises(ConfigError, match=r"multiple of 6 \(3 modality groups on 2 processes\)"):
        GroupSampler(GROUPS, 20, seed=0, world=2)
    with pytest.raises(ConfigError, match="use 18 or 24"):
        GroupSampler(GROUPS, 20, seed=0, world=2)
