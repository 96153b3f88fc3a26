"""A memory bank: one unit vector per image of the training set."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.base.randomness import NEGATIVES, generator
from scoutview.nn.gather import all_gather, all_sum, rank, world_size

_BLOCK = 65536


class MemoryBank(nn.Module):
    """What the network said of every image when it last saw it, addressed by `batch.rows`.

    Reads and writes touch only the rows they name: nothing is copied whole, and nothing waits for
    the device. Write only after the backward pass of a loss that read the bank.

    Every process holds the whole bank, or, if `sharded`, the rows r with r % world = rank and
    therefore 1 / world of the bytes; reads and writes then go through the owners. The state of a
    shard is that of its own process and fits as many processes only; `whole` and `part_of` make
    from it, and of it, a state that fits any number.

    Source: Wu et al., 2018, arXiv:1805.01978, section 3.2.
    """

    rows: Tensor
    """The bank, (N, D); of a shard the owned rows in rising order and a last one that stays 0."""
    seed: Tensor
    """Where the draws of negatives start from, drawn from torch's generator at the beginning."""

    def __init__(self, length: int, dim: int, *, sharded: bool = False) -> None:
        """Start with random unit vectors, the same for any number of processes.

        Args:
            length: Images in the training set, N >= 1.
            dim: Width of a row, D.
            sharded: Keep only the rows that this process owns; in one process that is all of them.
        """
        super().__init__()
        self.length, self.sharded = length, sharded and world_size() > 1
        self.owners = world_size() if self.sharded else 1
        self.owner = rank() if self.sharded else 0
        places = -(-length // self.owners) + self.sharded
        rows = torch.zeros(places, dim)
        for start in range(0, length, _BLOCK):  # by blocks: a shard never needs the whole bank
            numbers = torch.arange(start, min(start + _BLOCK, length))
            block = F.normalize(torch.randn(len(numbers), dim), dim=1)
            mine = numbers % self.owners == self.owner
            rows[numbers[mine] // self.owners] = block[mine]
        if self.sharded:
            self.rows = rows  # not a buffer: data-parallel wrappers make buffers equal everywhere
        else:
            self.register_buffer("rows", rows)
        self.register_buffer("seed", torch.randint(2**62, ()))
        self._seed, self._seen = 0, (-1, -1)

    def __len__(self) -> int:
        return self.length

    def read(self, rows: Tensor, *, same: bool = False) -> Tensor:
        """Look rows up.

        Args:
            rows: Numbers in [0, N), any shape S, int64; of a shard the same shape everywhere.
            same: Every process asks for the same rows, which saves a shard some traffic.

        Returns:
            Unit vectors, (*S, D), without gradient. Owned by the caller, not a view of the bank.
        """
        if not self.sharded:
            return self.rows.index_select(0, rows.flatten()).view(*rows.shape, -1)
        wanted = rows.flatten()
        if not same:
            wanted = all_gather(wanted)  # (world S,)
        found = all_sum(self.rows.index_select(0, self._places(wanted)))  # others add zeros
        if not same:
            found = found.chunk(self.owners)[self.owner]
        return found.view(*rows.shape, -1)

    @torch.no_grad()
    def write(self, rows: Tensor, values: Tensor, *, momentum: float = 1.0) -> None:
        """Move the rows of all processes towards new values: v = unit((1 - m) v + m new).

        A row that stands several times in the global batch takes its last value in the order of
        the ranks, as if the others were not there.

        Args:
            rows: Numbers of this process, (B,) int64.
            values: What the network says now, (B, D).
            momentum: m, the weight of the new value, in [0, 1]; 1 overwrites.
        """
        rows, values = all_gather(rows), all_gather(values.detach().to(self.rows))
        ordered, order = rows.sort(stable=True)  # equal rows keep the order of the ranks
        last = order[torch.searchsorted(ordered, rows, right=True) - 1]  # (world B,)
        places = self._places(rows)
        moved = torch.lerp(self.rows.index_select(0, places), values[last], momentum)
        self.rows.index_copy_(0, places, F.normalize(moved, dim=1))
        if self.sharded:
            self.rows[-1].zero_()  # where the rows of others went

    def sample(
        self, count: int, *, step: int, stream: int = 0, avoid: Tensor | None = None
    ) -> Tensor:
        """Draw rows uniformly with replacement, the same in every process.

        Args:
            count: Rows to draw, K.
            step: Each step has its own draws.
            stream: Each purpose within a step has its own draws.
            avoid: Rows of this process, (B,), each process as many; no row of any process is
                drawn.

        Returns:
            Numbers in [0, N), (K,) int64, on the bank's device.

        Raises:
            ConfigError: There may be no row left to draw.
        """
        random = self._generator(step, stream)
        device = self.rows.device
        if avoid is None:
            return torch.randint(self.length, (count,), generator=random, device=device)
        self._require(world_size() * len(avoid) + 1)
        taken = all_gather(avoid).sort().values  # (world B,)
        steps = torch.arange(len(taken), device=device)
        again = torch.zeros_like(taken, dtype=torch.bool)
        again[1:] = taken[1:] == taken[:-1]  # a row that stands there before
        taken = torch.where(again, self.length + steps, taken).sort().values
        free = self.length - len(taken) + again.sum()
        drawn = torch.randint(2**62, (count,), generator=random, device=device) % free
        # The j-th free row lies behind every taken row that has at most j free rows before it.
        return drawn + torch.searchsorted(taken - steps, drawn, right=True)

    def sample_each(self, rows: Tensor, count: int, *, step: int, stream: int = 0) -> Tensor:
        """Draw other rows for each row, uniformly with replacement.

        Args:
            rows: Rows of this process, (B,), each process as many.
            count: Rows to draw for each, K.
            step: Each step has its own draws.
            stream: Each purpose within a step has its own draws.

        Returns:
            Numbers in [0, N), (B, K) int64, never the row itself; the same for a position of the
            global batch whatever the number of processes.

        Raises:
            ConfigError: There is no other row.
        """
        self._require(2)
        shape = (world_size() * len(rows), count)
        drawn = torch.randint(
            self.length - 1, shape, generator=self._generator(step, stream), device=rows.device
        )
        own = drawn[rank() * len(rows) : (rank() + 1) * len(rows)]  # (B, K)
        return own + (own >= rows[:, None])

    def _require(self, images: int) -> None:
        if self.length < images:
            raise ConfigError(
                f"Negatives come from images outside the batch, so {images} are needed, there are"
                f" {self.length}; lower batch_size or add images."
            )

    def owned(self) -> tuple[Tensor, Tensor]:
        """Give the numbers of the rows that lie here, (n,), and the rows in place, (n, D)."""
        numbers = torch.arange(self.owner, self.length, self.owners, device=self.rows.device)
        return numbers, self.rows[: len(numbers)]

    def whole(self) -> Tensor | None:
        """Collect the shards of all processes; all of them must call it.

        Returns:
            All rows in order, (N, D), in the first process; None in the others.
        """
        part = self.rows[:-1]  # without the place that stays 0
        parts = [torch.empty_like(part) for _ in range(self.owners)] if self.owner == 0 else None
        dist.gather(part.contiguous(), parts)
        # Row r lies with process r % owners at r // owners.
        return None if parts is None else torch.stack(parts, dim=1).flatten(0, 1)[: self.length]

    def part_of(self, whole: Tensor) -> Tensor:
        """Cut the shard of this process out of a whole bank.

        Args:
            whole: All rows in order, (N, D).

        Returns:
            What `rows` would be, with its last place 0.
        """
        part = torch.zeros_like(self.rows, device=whole.device)
        mine = whole[self.owner :: self.owners]
        part[: len(mine)] = mine
        return part

    def _places(self, rows: Tensor) -> Tensor:
        """Where rows lie in `self.rows`; those of other owners in the last place."""
        if not self.sharded:
            return rows
        mine = rows % self.owners == self.owner
        return torch.where(mine, rows // self.owners, len(self.rows) - 1)

    def _generator(self, step: int, stream: int) -> torch.Generator:
        seen = (id(self.seed), self.seed._version)
        if seen != self._seen:  # new, or somebody loaded a checkpoint into the buffer
            self._seed, self._seen = int(self.seed), seen
        start = int(generator(self._seed, NEGATIVES, step, stream).integers(2**63))
        return torch.Generator(self.rows.device).manual_seed(start)

    # --- a shard is not a buffer, so it is moved, saved and loaded here ---

    def _apply(self, fn: Any, recurse: bool = True) -> "MemoryBank":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.sharded:
            self.rows = fn(self.rows)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.sharded:
            destination[prefix + "rows"] = self.rows

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        *_, missing, unexpected, errors = rest
        super()._load_from_state_dict(state, prefix, *rest)
        name = prefix + "rows"
        if not self.sharded:
            return
        if name not in state:
            missing.append(name)
            return
        if name in unexpected:
            unexpected.remove(name)
        if state[name].shape != self.rows.shape:
            errors.append(
                f"{name} is {tuple(state[name].shape)}, this process's part of the bank must"
                f" be {tuple(self.rows.shape)}; go on with as many processes as before."
            )
        else:
            self.rows.copy_(state[name])


def sharded_banks(module: nn.Module) -> dict[str, MemoryBank]:
    """Find the banks of which this process holds a part only.

    Args:
        module: What may contain banks.

    Returns:
        Bank by name in `module`.
    """
    parts = module.named_modules()
    return {name: m for name, m in parts if isinstance(m, MemoryBank) and m.sharded}
