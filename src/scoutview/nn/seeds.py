"""Where a method's own random draws start from."""

import torch
from torch import Tensor, nn

from scoutview.base.randomness import generator


class Seed(nn.Module):
    """One number, drawn from torch's generator when a method is built and saved with it.

    A draw is addressed by what it is for (step, epoch, cluster set), so it is the same after a
    resume and in every process. The number is read from the device once, not at every draw.
    """

    start: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", torch.randint(2**62, ()))
        self._start, self._seen = 0, (-1, -1)

    def number(self, purpose: int, *address: int) -> int:
        """Give the seed of one address.

        Args:
            purpose: One of the constants of `base.randomness`.
            address: At most three integers, for example (epoch, head).

        Returns:
            A number in [0, 2^62).
        """
        seen = (id(self.start), self.start._version)
        if seen != self._seen:  # new, or somebody loaded a checkpoint into the buffer
            self._start, self._seen = int(self.start), seen
        return int(generator(self._start, purpose, *address).integers(2**62))

    def stream(self, purpose: int, *address: int) -> torch.Generator:
        """Give torch's generator of one address, on the device of the method."""
        return torch.Generator(self.start.device).manual_seed(self.number(purpose, *address))
