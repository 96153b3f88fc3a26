"""Which images stand in the batch of a step: a function of the step, without state.

The global batch of a step is the same for any number of processes; each takes its contiguous part.
A position in training is one number, so resuming costs nothing, and a permutation of 105 million
images takes no memory (a Feistel network, see `base.randomness.permuted`).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scoutview.base.errors import ConfigError
from scoutview.base.randomness import permuted

Positions = NDArray[np.int64]

_LOOKED_UP: Final = 4096


class Drawn(NamedTuple):
    """This process's part of one batch."""

    positions: Positions
    """(B,) positions in the training set."""
    epochs: Positions
    """(B,) how often each image had been passed before: the epoch that addresses its views."""


class Sampler(Protocol):
    """What the loader asks of a sampler."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps until about every image has been drawn once."""
        ...

    def draw(self, step: int) -> Drawn:
        """Return this process's part of the batch of a step, counted from 0 over all epochs."""
        ...


class PermutationSampler:
    """Every image once an epoch, in another order each time."""

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = True,
    ) -> None:
        """Prepare the permutations.

        Args:
            size: Images in the training set, N.
            batch_size: Images of a batch, over all processes.
            seed: The run's seed.
            rank: Number of this process.
            world: Number of processes.
            drop_last: Leave out what does not fill a batch; the next epoch draws it elsewhere.
                Otherwise the last batch of an epoch is smaller.

        Raises:
            ConfigError: The batch is larger than the set, or cannot be split over the processes.
        """
        _check_parts(batch_size, rank, world)
        if drop_last and batch_size > size:
            raise ConfigError(
                f"batch_size must be at most the {size} images of the training set, got"
                f" {batch_size}; the largest that works is {size // world * world}."
            )
        if size < 1:
            raise ConfigError("The training set has no images; check --where and the split.")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world, self.drop_last = rank, world, drop_last
        self._kept: tuple[tuple[int, int], Positions] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """See `Sampler.steps_per_epoch`."""
        whole = self.size // self.batch_size
        return whole if self.drop_last else -(-self.size // self.batch_size)

    def draw(self, step: int) -> Drawn:
        """See `Sampler.draw`."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        start = batch * self.batch_size
        count = min(self.batch_size, self.size - start)
        low, high = (count * part // self.world for part in (self.rank, self.rank + 1))
        first = batch // self._together * self._together * self.batch_size
        block = self._block(epoch, first)
        positions = block[start + low - first : start + high - first].copy()
        return Drawn(positions, np.full(len(positions), epoch, dtype=np.int64))

    @property
    def _together(self) -> int:
        """Batches that are looked up at once: one by one, small ones cost mostly overhead."""
        return max(1, _LOOKED_UP // self.batch_size)

    def _block(self, epoch: int, first: int) -> Positions:
        """Images of some batches from position `first` on; the last block is kept."""
        if self._kept is None or self._kept[0] != (epoch, first):
            stop = min(first + self._together * self.batch_size, self.size)
            wanted = np.arange(first, stop)
            block = permuted(wanted, self.size, seed=self.seed, epoch=epoch)
            self._kept = ((epoch, first), block)
        return self._kept[1]


class GroupSampler:
    """Equal parts of every modality group in every batch and on every process.

    Each group has its own stream of permutations and starts again when it is through, so small
    groups are seen more often. Inside a process's part the groups alternate.
    """

    def __init__(
        self,
        groups: Sequence[int] | Positions,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Sort the images by group; the only memory is one number per image.

        Args:
            groups: Group of every image of the training set, (N,).
            batch_size: Images of a batch, over all processes.
            seed: The run's seed.
            rank: Number of this process.
            world: Number of processes.

        Raises:
            ConfigError: The batch cannot be split into equal parts.
        """
        groups = np.asarray(groups)
        if len(groups) == 0:
            raise ConfigError("The training set has no images; check --where and the split.")
        names = np.unique(groups)
        parts = len(names) * world
        if batch_size < 1 or batch_size % parts:
            raise ConfigError(
                f"batch_size must be a multiple of {parts} ({len(names)} modality groups on"
                f" {world} processes), got {batch_size}; use {max(1, batch_size // parts) * parts}"
                f" or {(batch_size // parts + 1) * parts}, or sample without groups."
            )
        _check_parts(batch_size, rank, world)
        self.members = [np.flatnonzero(groups == name) for name in names]
        self.size, self.batch_size, self.seed = len(groups), batch_size, seed
        self.rank, self.world = rank, world

    @property
    def steps_per_epoch(self) -> int:
        """Steps that draw as many images as the training set has."""
        return max(1, self.size // self.batch_size)

    def draw(self, step: int) -> Drawn:
        """See `Sampler.draw`."""
        each = self.batch_size // len(self.members)
        share = each // self.world
        start = step * each + self.rank * share
        positions, epochs = zip(
            *(self._draw(group, start, share) for group in range(len(self.members))), strict=True
        )
        return Drawn(np.stack(positions, axis=1).ravel(), np.stack(epochs, axis=1).ravel())

    def _draw(self, group: int, start: int, count: int) -> Drawn:
        members = self.members[group]
        passed, place = np.divmod(np.arange(start, start + count), len(members))
        positions = np.empty(count, dtype=np.int64)
        for epoch in np.unique(passed).tolist():
            now = passed == epoch
            # Stream 0 belongs to the sampler without groups.
            order = permuted(
                place[now], len(members), seed=self.seed, epoch=epoch, stream=group + 1
            )
            positions[now] = members[order]
        return Drawn(positions, passed)


def _check_parts(batch_size: int, rank: int, world: int) -> None:
    if batch_size < 1 or batch_size % world:
        raise ConfigError(
            f"batch_size must be a positive multiple of the {world} processes, got {batch_size};"
            f" use {max(1, batch_size // world) * world}."
        )
    if not 0 <= rank < world:
        raise ConfigError(f"rank must be in [0, {world}), got {rank}.")
