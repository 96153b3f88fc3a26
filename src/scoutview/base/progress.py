"""Bars on standard error: one display for all that runs at the same time in this process.

A bar is drawn on a terminal only. The command line switches bars on; from Python they stay off,
except those that a caller asks for.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@functools.cache
def console() -> "Console":
    """The console of bars and messages, on standard error; sharing it keeps them apart."""
    from rich.console import Console

    return Console(stderr=True)


class Bar:
    """One line of the display, or nothing where nothing is drawn."""

    def __init__(self, display: "Progress | None", task: "TaskID | None") -> None:
        self._display = display
        self._task = task

    def advance(self, count: int = 1) -> None:
        """Count things done."""
        if self._display is not None and self._task is not None:
            self._display.advance(self._task, count)

    def reach(self, done: int, total: int | None = None) -> None:
        """Say how many are done, and of how many if that has changed."""
        if self._display is not None and self._task is not None:
            self._display.update(self._task, completed=done, total=total)

    def say(self, state: str) -> None:
        """Show a few words beside the bar."""
        if self._display is not None and self._task is not None:
            self._display.update(self._task, state=state)


class _Screen:
    """What is drawn now, and whether anything shall be."""

    def __init__(self) -> None:
        self.wish: bool | None = None
        self.display: Progress | None = None
        self.bars = 0


_screen = _Screen()


def show_bars(shown: bool = True) -> None:
    """Switch the bars of this process on or off, whatever callers ask for."""
    _screen.wish = shown


@contextmanager
def bar(
    label: str, *, total: int | None = None, done: int = 0, shown: bool | None = None
) -> Iterator[Bar]:
    """Show a bar while the body runs; it vanishes afterwards.

    Args:
        label: What is being done.
        total: How many there are; None if nobody knows yet.
        done: How many are done already.
        shown: True draws unless bars are switched off; None only if they are switched on; False
            never.

    Yields:
        What counts.
    """
    wished = shown is not False and (_screen.wish if _screen.wish is not None else bool(shown))
    if not wished or not console().is_terminal:
        yield Bar(None, None)
        return
    display = _screen.display = _screen.display or _new_display()
    _screen.bars += 1
    task = display.add_task(label, total=total, completed=done, state="")
    display.start()  # does nothing where it runs already
    try:
        yield Bar(display, task)
    finally:
        _screen.bars -= 1
        if _screen.bars:
            display.refresh()
            display.remove_task(task)
        else:
            display.stop()
            _screen.display = None


def _new_display() -> "Progress":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
        refresh_per_second=2,
    )
