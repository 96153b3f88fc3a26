"""What all verbs share: settings from file and flags, messages, progress."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError

Settings = TypeVar("Settings", bound=Config)

console = Console(stderr=True)


def note(text: str) -> None:
    """Print a result to standard output, without wrapping or markup."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def show_messages(level: int = logging.INFO) -> None:
    """Show what the library logs, on standard error."""
    handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("scoutview")
    root.handlers[:] = [handler]
    root.setLevel(level)


def settings(
    model: type[Settings],
    file: Path | None,
    flags: Mapping[str, Any],
    assignments: Sequence[str],
) -> Settings:
    """Build a configuration: the file first, then flags, then `--set key=value`.

    Raises:
        ConfigError: An assignment has no "=", a key is unknown, or a value is out of range.
    """
    overrides = {key: yaml.safe_dump(value) for key, value in flags.items()}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set needs key=value, got {assignment!r}.")
        overrides[key] = value
    return model.load(file, overrides)


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of things done of things found; yields what reports both numbers."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, found: int) -> None:
            bar.update(task, completed=done, total=found)

        yield report
