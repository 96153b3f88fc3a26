"""The progress bar: images per second, share of time waiting for data, time left, GPU memory."""

from types import TracebackType
from typing import Self

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class TrainingBar:
    """A bar on standard error; without a terminal, or when hidden, it shows nothing.

    Args:
        label: Name of the run.
        total: Steps of the whole training.
        start: Steps done before.
        shown: False on all but the first process.
    """

    def __init__(self, label: str, *, total: int, start: int, shown: bool) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
            refresh_per_second=2,
        )
        self._task = self._bar.add_task(label, total=total, completed=start, state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        """Count one step."""
        self._bar.advance(self._task)

    def show(self, metrics: dict[str, float]) -> None:
        """Show the latest metrics beside the bar."""
        parts = [f"loss {metrics['loss']:.3f}", f"{metrics['images_per_s']:,.0f} images/s"]
        parts.append(f"data wait {100 * metrics['data_wait']:.0f} %")
        if "memory_gib" in metrics:
            parts.append(f"{metrics['memory_gib']:.1f} GiB")
        self._bar.update(self._task, state=" · ".join(parts))


def gpu_memory(device: torch.device) -> dict[str, float]:
    """Return the largest GPU memory used so far in GiB; nothing on other devices."""
    if device.type != "cuda":
        return {}
    return {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
