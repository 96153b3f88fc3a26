"""Zip archives and npz files: members as sources, with bounds against zip bombs.

A member's address joins names by "!"; "%" and "!" inside a name are written %25 and %21.
"""

import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import BinaryIO, Final

from scoutview.pixels.source import FileSource, Source

MEMBER_LIMIT: Final = 2 << 30
"""Largest unpacked member in bytes (2 GiB)."""

RATIO_LIMIT: Final = 200
"""An archive may unpack to 200 times its own size plus `SLACK`, not more."""

SLACK: Final = 1 << 30
COUNT_LIMIT: Final = 2_000_000
"""Most members of one archive."""

DEPTH_LIMIT: Final = 3
"""Deepest nesting of archives."""

ARCHIVE_ERRORS: Final = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, OSError,
    EOFError, ValueError, RuntimeError, LookupError,
)  # fmt: skip
"""What `zipfile` raises for damaged, encrypted or unsupported archives."""

_HEAD: Final = 1 << 16


def join(parts: Sequence[str]) -> str:
    """Write the address of a member inside nested archives."""
    return "!".join(part.replace("%", "%25").replace("!", "%21") for part in parts)


def split(member: str) -> list[str]:
    """Undo `join`."""
    return [part.replace("%21", "!").replace("%25", "%") for part in member.split("!") if part]


class MemberSource:
    """One member of an archive; unpacked as a whole only when its first part does not do."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._archive, self._info = archive, info
        self.size = info.file_size
        with archive.open(info) as stream:
            self._data = stream.read(_HEAD)

    def read_at(self, offset: int, count: int) -> bytes:
        """See `Source.read_at`."""
        if offset + count > len(self._data) and len(self._data) < self.size:
            self._data = self._archive.read(self._info)
        return self._data[offset : offset + count]

    def stream(self) -> BinaryIO:
        """See `Source.stream`."""
        self.read_at(0, self.size)
        return io.BytesIO(self._data)


def excess(archive: zipfile.ZipFile, packed: int) -> str:
    """Return why an archive is refused as a possible bomb, "" if it is not.

    Args:
        archive: The open archive; only its directory is looked at.
        packed: Size of the archive in bytes.
    """
    infos = archive.infolist()
    if len(infos) > COUNT_LIMIT:
        return f"The archive has {len(infos)} members; at most {COUNT_LIMIT} are read."
    unpacked = sum(info.file_size for info in infos)
    limit = RATIO_LIMIT * packed + SLACK
    if unpacked > limit:
        return f"The archive unpacks to {unpacked} bytes; at most {limit} are accepted."
    return ""


def open_parts(path: str, parts: Sequence[str]) -> tuple[Source, str]:
    """Open what an address names.

    Args:
        path: The file on disk.
        parts: Names of nested members; the last may be an array of an npz file.

    Returns:
        The source, and the array's name in it ("" if the address names a file).

    Raises:
        Exception: One of `ARCHIVE_ERRORS`; KeyError if there is no such member.
    """
    status = os.stat(path)
    if not parts:
        return FileSource(path), ""
    # Handles are kept per process: a handle shared by a fork would share its file position.
    archive = _cached(path, tuple(parts[:-1]), os.getpid(), status.st_mtime_ns, status.st_size)
    name = parts[-1]
    if name in archive.NameToInfo:
        return MemberSource(archive, archive.getinfo(name)), ""
    return MemberSource(archive, archive.getinfo(f"{name}.npy")), name


@lru_cache(maxsize=4)
def _cached(
    path: str, parts: tuple[str, ...], process: int, mtime_ns: int, size: int
) -> zipfile.ZipFile:
    if not parts:
        return zipfile.ZipFile(path)
    outer = _cached(path, parts[:-1], process, mtime_ns, size)
    return zipfile.ZipFile(MemberSource(outer, outer.getinfo(parts[-1])).stream())
