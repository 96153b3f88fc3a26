"""A ring of past rows: negatives of MoCo, extra rows for SwAV's assignment."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.nn.gather import all_gather


class Queue(nn.Module):
    """The last `length` rows that were written.

    The write position lives on the host, so no step waits for the device; the buffer `written`
    mirrors it for checkpoints. Rows are used in place, never copied: write only after the backward
    pass of a loss that read them.
    """

    rows: Tensor
    images: Tensor
    """Image of each row, (K,) int64; -1 where unknown. No view is told from keys of its own."""
    written: Tensor
    held: list[tuple[Tensor, Tensor]]
    """Rows and images of the step's parts, not written yet."""

    def __init__(self, length: int, dim: int, *, random: bool, newest_first: bool = False) -> None:
        """Make a queue.

        Args:
            length: Number of rows, K >= 1.
            dim: Width of a row, D.
            random: Start with random unit vectors (MoCo) or with zeros (SwAV).
            newest_first: Write towards lower positions, so that `ordered` starts with the newest.
        """
        super().__init__()
        start = F.normalize(torch.randn(length, dim), dim=1) if random else torch.zeros(length, dim)
        self.register_buffer("rows", start)  # (K, D)
        self.register_buffer("images", torch.full((length,), -1))  # (K,)
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self.newest_first = newest_first
        self.held = []
        self._count = 0
        self._seen = (-1, -1)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def count(self) -> int:
        """Number of rows written so far."""
        seen = (id(self.written), self.written._version)
        if seen != self._seen:  # somebody loaded a checkpoint into the buffer
            self._count, self._seen = int(self.written), seen
        return self._count

    @property
    def position(self) -> int:
        """Where the next row goes, or where the newest row is if `newest_first`."""
        return (-self.count if self.newest_first else self.count) % len(self)

    @property
    def is_full(self) -> bool:
        """Whether every row has been written."""
        return self.count >= len(self)

    @torch.no_grad()
    def write(self, rows: Tensor, images: Tensor | None = None) -> None:
        """Replace the oldest rows.

        Args:
            rows: New rows in the order of the global batch, (B, D), B <= K.
            images: Their rows in the training set, (B,) int64; None where nobody asks.

        Raises:
            ConfigError: There are more rows than the queue holds.
        """
        if len(rows) > len(self):
            raise ConfigError(
                f"A queue of {len(self)} rows cannot take a global batch of {len(rows)}; make it at"
                " least as long as the batch."
            )
        count = self.count
        start = (self.position - len(rows)) % len(self) if self.newest_first else self.position
        head = min(len(rows), len(self) - start)
        names = self.images.new_full((len(rows),), -1) if images is None else images
        for kept, new in ((self.rows, rows), (self.images, names)):
            kept[start : start + head] = new[:head]
            kept[: len(rows) - head] = new[head:]
        self._count = count + len(rows)
        self.written.fill_(self._count)
        self._seen = (id(self.written), self.written._version)

    def hold(self, rows: Tensor, images: Tensor) -> None:
        """Gather the rows of one part of a step, and keep them until the step has ended.

        Args:
            rows: This process's rows, (B, D).
            images: Their rows in the training set, (B,) int64.
        """
        self.held.append((all_gather(rows), all_gather(images)))

    def write_held(self) -> None:
        """Write what was held, part by part."""
        for rows, images in self.held:
            self.write(rows, images)
        self.held.clear()

    def ordered(self) -> Tensor:
        """Give the rows by age, (K, D): newest batch first if `newest_first`, else oldest first."""
        return self.rows.roll(-self.position, dims=0)
