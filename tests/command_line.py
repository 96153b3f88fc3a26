"""The command line inside the test's own process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scoutview.cli import main


@contextmanager
def _own_logging() -> Iterator[None]:
    """Put the library's logger back as it was: the command line sets it up."""
    root = logging.getLogger("scoutview")
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def scoutview(*arguments: object) -> int:
    """Run `scoutview` with these arguments; returns the status it would end with."""
    words = ["scoutview", *map(str, arguments)]
    with _own_logging(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)
