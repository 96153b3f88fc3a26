"""SIGTERM and SIGINT: finish the step, write a checkpoint, then stop."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from lightning_fabric import Fabric
from torch import Tensor

from scoutview.base.errors import RunError


class TrainingStoppedError(RunError):
    """Training was asked to stop; everything is saved."""

    def __init__(self, name: str, step: int, run: Path) -> None:
        super().__init__(
            f"{run.name} was stopped by {name} after step {step}; everything is saved. To go on,"
            " call the same verb with --resume and the folder that --out named, and nothing else."
        )
        self.name, self.step, self.run = name, step, run

    def __reduce__(self) -> tuple[type[Self], tuple[str, int, Path]]:
        """Come back whole from another process."""
        return type(self), (self.name, self.step, self.run)


class StopRequest:
    """Notes a signal instead of dying from it; a second one acts as usual.

    Outside the main thread Python delivers no signals, and this does nothing.
    """

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, self._before[number])

    def agreed(self, fabric: Fabric, *, check: bool) -> bool:
        """Whether any process was asked to stop.

        Args:
            fabric: The processes.
            check: Whether this is a step at which all of them ask; the same on all.
        """
        if not check:
            return False
        if fabric.world_size == 1:
            return bool(self.name)
        flag = torch.tensor(float(bool(self.name)), device=fabric.device)
        total = fabric.all_reduce(flag, reduce_op="sum")
        assert isinstance(total, Tensor)
        if total > 0 and not self.name:
            self.name = "a signal to another process"
        return bool(total > 0)
