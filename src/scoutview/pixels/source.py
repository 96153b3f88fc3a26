"""Bytes of a file, or of a file inside an archive, read where they are needed."""

import errno
import io
import os
import stat
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

# Windows has O_BINARY, all others O_NONBLOCK and pread.
_FLAGS: Final[int] = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_HAS_PREAD: Final = hasattr(os, "pread")


class Source(Protocol):
    """Random access to bytes."""

    size: int

    def read_at(self, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset`; fewer only at the end."""
        ...

    def stream(self) -> BinaryIO:
        """Return a seekable stream from the first byte on; the caller closes it."""
        ...


class FileSource:
    """A file on disk, never modified."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Without O_NONBLOCK a named pipe would make the scan wait for ever.
        self._fd = os.open(path, os.O_RDONLY | _FLAGS)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "not a regular file")
        self.size = status.st_size

    def read_at(self, offset: int, count: int) -> bytes:
        """See `Source.read_at`."""
        if _HAS_PREAD:
            return os.pread(self._fd, count, offset)
        os.lseek(self._fd, offset, os.SEEK_SET)
        return os.read(self._fd, count)

    def stream(self) -> BinaryIO:
        """See `Source.stream`."""
        return open(self.path, "rb")

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BytesSource:
    """Bytes in memory, as of an archive's member."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, count: int) -> bytes:
        """See `Source.read_at`."""
        return self._data[offset : offset + count]

    def stream(self) -> BinaryIO:
        """See `Source.stream`."""
        return io.BytesIO(self._data)
