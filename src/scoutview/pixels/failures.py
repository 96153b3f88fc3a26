"""Whose fault a failed read is: the file's becomes a problem, the machine's must be heard.

A file that counts as damaged is not read again before it changes, so a full memory must never count
as one. A bad sector (EIO) is one file's; what cannot be read is tried again by the next index.
"""

import errno
import math
import os
from typing import Final

import cv2
import numpy as np

from scoutview.pixels.headers import Header

_OF_THE_FILE: Final = frozenset(
    (
        None,  # raised by a decoder, not by the system
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
        errno.ENAMETOOLONG, errno.EINVAL, errno.EIO, errno.ENXIO, errno.EFBIG, errno.EOVERFLOW,
    )
)  # fmt: skip
"""What the system says of one file; everything else (no handles, no room) it says of itself."""

_NO_THREAD: Final = "can't start new thread"


def pass_on(error: BaseException) -> None:
    """Raise an error again if no file can cause it: no memory, handles, threads, or room.

    A request for more memory than the machine has at all was made by the file, whatever is free.

    Args:
        error: What a reader or decoder raised.
    """
    if isinstance(error, MemoryError):
        # numpy says what was asked for
        shape, dtype = getattr(error, "shape", ()), getattr(error, "dtype", None)
        if dtype is None or math.prod(shape) * dtype.itemsize <= memory():
            raise error
    elif isinstance(error, OSError):
        if error.errno not in _OF_THE_FILE:
            raise error
    elif isinstance(error, cv2.error):
        if getattr(error, "code", 0) == cv2.Error.StsNoMem:
            raise error
    elif isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        raise error


def too_large(header: Header) -> bool:
    """Tell whether an image cannot fit into this machine's memory, even if all were free."""
    width = np.dtype(header.dtype).itemsize if header.dtype else 1
    return math.prod(header.shape) * max(1, header.channels) * width > memory()


def memory() -> int:
    """Return the machine's memory in bytes; where nobody can say, more than any file asks for."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62
