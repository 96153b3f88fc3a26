"""What all verbs share: settings from file and flags, messages, progress."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from cyclopts import Parameter
from rich.console import Console
from rich.logging import RichHandler

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.base.progress import console, show_bars

Settings = TypeVar("Settings", bound=Config)


Resume = Annotated[list[Path] | None, Parameter(consume_multiple=(0, 1))]
"""`--resume FOLDER`, which takes everything from the folder, or `--resume` beside the arguments."""


def note(text: str) -> None:
    """Print a result to standard output, without wrapping or markup."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def show_messages(level: int = logging.INFO) -> None:
    """Show what the library logs, and bars, on standard error."""
    show_bars()
    handler = RichHandler(console=console(), show_path=False, show_time=False, markup=False)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger("scoutview")
    root.handlers[:] = [handler]
    root.setLevel(level)


def require_alone(
    verb: Callable[..., Any], given: Mapping[str, Any], beside: Sequence[str] = ("cohort",)
) -> None:
    """Refuse flags beside `--resume FOLDER`, whose settings are in the folder.

    Args:
        verb: The command.
        given: All of its parameters, as it got them.
        beside: Parameters that may be given.

    Raises:
        ConfigError: A flag is there that would change nothing.
    """
    known = inspect.signature(verb).parameters
    names = [name for name, value in given.items() if value != known[name].default]
    extra = [name for name in names if name not in (*beside, "resume")]
    if extra:
        flags = ", ".join("--" + name.strip("_").replace("_", "-") for name in extra)
        raise ConfigError(
            f"--resume FOLDER takes its settings from the folder, got {flags} as well; leave out"
            " one of the two."
        )


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
