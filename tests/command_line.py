"""The command line inside the test's own process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scoutview.base import progress
from scoutview.cli import main


@contextmanager
def _own_messages() -> Iterator[None]:
    """Put the library's logger and bars back as they were: the command line sets them up."""
    root = logging.getLogger("scoutview")
    handlers, level, wish = root.handlers[:], root.level, progress._screen.wish
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        progress._screen.wish = wish


def scoutview(*arguments: object) -> int:
    """Run `scoutview` with these arguments; returns the status it would end with."""
    words = ["scoutview", *map(str, arguments)]
    with _own_messages(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as end:
            main()
    return int(end.value.code or 0)
