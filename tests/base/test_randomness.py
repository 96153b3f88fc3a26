import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scoutview.base.randomness import SAMPLING, VIEWS, generator, permuted


def test_generator__the_same_address_gives_the_same_numbers() -> None:
    first = generator(7, VIEWS, 3, 123456789).random(5)
    assert np.array_equal(first, generator(7, VIEWS, 3, 123456789).random(5))


@pytest.mark.parametrize(
    "other", [(8, VIEWS, 3, 5), (7, SAMPLING, 3, 5), (7, VIEWS, 4, 5), (7, VIEWS, 3, 6)]
)
def test_generator__every_part_of_the_address_counts(other: tuple[int, int, int, int]) -> None:
    first = generator(7, VIEWS, 3, 5).random(8)
    assert not np.isin(generator(*other).random(8), first).any()


@given(size=st.integers(1, 5000), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_permuted__is_a_bijection(size: int, seed: int, epoch: int) -> None:
    out = permuted(np.arange(size), size, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(out), np.arange(size))


def test_permuted__part_of_the_index_equals_part_of_the_whole() -> None:
    whole = permuted(np.arange(1000), 1000, seed=1, epoch=2)
    assert np.array_equal(permuted(np.arange(300, 340), 1000, seed=1, epoch=2), whole[300:340])


def test_permuted__first_positions_are_uniform_over_epochs() -> None:
    size, draws = 16, 4000
    first = [int(permuted(np.zeros(1, np.int64), size, seed=5, epoch=e)[0]) for e in range(draws)]
    assert stats.chisquare(np.bincount(first, minlength=size)).pvalue > 0.001


def test_permuted__neighbours_are_uncorrelated() -> None:
    out = permuted(np.arange(100_000), 100_000, seed=3, epoch=0).astype(float)
    assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.02
