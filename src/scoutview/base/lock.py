"""One process at a time in a folder."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scoutview.base.errors import RunError


@contextmanager
def alone(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder for this process; the lock ends with the process, however that ends.

    Where the file system knows no locks nothing is held.

    Args:
        folder: An existing folder. It may be removed while it is held.
        work: What is done there, for the message: "index build".

    Raises:
        RunError: Another process holds it.
    """
    path = folder / ".lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError as error:
        raise _taken(work) from error
    try:
        if not _lock(fd) or not _is_still(path, fd):
            raise _taken(work)
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
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def _is_still(path: Path, fd: int) -> bool:
    """Say whether the name still means the open file: a build that ends removes its folder."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _taken(work: str) -> RunError:
    return RunError(
        f"Another {work} works in this folder; wait until it has ended, or choose another folder."
    )
