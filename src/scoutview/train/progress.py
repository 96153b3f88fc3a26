"""The progress bar: images per second, share of time waiting for data, time left, GPU memory."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import torch

from scoutview.base.progress import bar


class TrainingBar:
    """A bar on standard error; without a terminal, or when hidden, it shows nothing.

    Args:
        label: Name of the run.
        total: Steps of the whole training.
        start: Steps done before.
        shown: False on all but the first process.
    """

    def __init__(self, label: str, *, total: int, start: int, shown: bool) -> None:
        self._stack = ExitStack()
        self._opened = bar(label, total=total, done=start, shown=shown)

    def __enter__(self) -> Self:
        self._bar = self._stack.enter_context(self._opened)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def advance(self) -> None:
        """Count one step."""
        self._bar.advance()

    def show(self, metrics: dict[str, float]) -> None:
        """Show the latest metrics beside the bar."""
        parts = [f"loss {metrics['loss']:.3f}", f"{metrics['images_per_s']:,.0f} images/s"]
        parts.append(f"data wait {100 * metrics['data_wait']:.0f} %")
        if "memory_gib" in metrics:
            parts.append(f"{metrics['memory_gib']:.1f} GiB")
        self._bar.say(" · ".join(parts))


def gpu_memory(device: torch.device) -> dict[str, float]:
    """Return the largest GPU memory used so far in GiB; nothing on other devices."""
    if device.type != "cuda":
        return {}
    return {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
