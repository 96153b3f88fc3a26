"""One build at a time in a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scoutview.base.errors import RunError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock ends with the process, however that ends.

    Args:
        folder: An existing folder. It may be removed while it is held.

    Raises:
        RunError: Another process holds it.
    """
    path = folder / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError as error:
        raise _taken() from error
    try:
        if not _lock(fd) or not _is_still(path, fd):
            raise _taken()
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        if os.name == "nt":
            msvcrt: Any = __import__("msvcrt")
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_still(path: Path, fd: int) -> bool:
    """Say whether the name still means the open file: a build that ends removes its folder."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _taken() -> RunError:
    return RunError(
        "Another index build works on this cohort folder; wait until it has ended, or choose"
        " another folder."
    )
