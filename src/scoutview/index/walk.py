"""Which files there are: a lazy walk over folders, in names, sizes and times only."""

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scoutview.base.errors import DataError
from scoutview.base.files import TEMPORARY
from scoutview.index.privacy import signature

_READER = "2"
"""Part of every signature; another number makes all files be read again."""


class SeenFile(NamedTuple):
    """A file as the walk sees it. Private: it holds a source path."""

    path: str
    name: str
    """The path below its source, starting with the source's own name, with forward slashes."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of the last change, nanoseconds."""
    signature: int
    """63 bits that change with any of the above."""


def walk(sources: Sequence[Path], skip: Collection[Path] = ()) -> Iterator[SeenFile]:
    """Yield every file below the sources; folders linked in a circle are entered once.

    Args:
        sources: Files and folders. One that lies inside another is not walked twice.
        skip: Folders that are left out, as the cohort itself and labelmaps.

    Raises:
        DataError: A source does not exist.
    """
    roots = _roots(sources)
    skipped = {os.path.realpath(folder) for folder in skip}
    for root, label in roots.items():
        if root.is_file():
            info = root.stat()
            yield _seen(str(root), label, info.st_size, info.st_mtime_ns)
        elif os.path.realpath(root) not in skipped:
            yield from _below(str(root), label, skipped)


def _roots(sources: Sequence[Path]) -> dict[Path, str]:
    if not sources:
        raise DataError("index needs at least one file or folder, got none.")
    for number, source in enumerate(sources, 1):  # as they were given, before they are sorted
        if not source.exists():
            raise DataError(f"Source {number} of {len(sources)} does not exist; check its path.")
    roots: dict[Path, str] = {}
    for source in sorted({Path(os.path.abspath(source)) for source in sources}):
        if any(parent in roots for parent in source.parents):
            continue
        label, copy = source.name, 2
        while label in roots.values():
            label, copy = f"{source.name}#{copy}", copy + 1
        roots[source] = label
    return roots


def _below(top: str, label: str, skipped: set[str]) -> Iterator[SeenFile]:
    info = os.stat(top)
    entered = {(info.st_dev, info.st_ino)}
    folders, links = [(top, label)], list[tuple[os.DirEntry[str], str]]()
    while folders or links:
        if not folders:
            # Links come last, so that a folder is known by its own name, not by a link's.
            entry, below = links.pop()
            if _enter(entry, entered, skipped):
                folders.append((entry.path, below))
            continue
        folder, name = folders.pop()
        try:
            entries = os.scandir(folder)
        except OSError:
            # The folder itself is handed on; reading it fails there and becomes a problem.
            yield _seen(folder, name, 0, 0)
            continue
        with entries:
            for entry in entries:
                below = f"{name}/{entry.name}"
                if not entry.is_dir():
                    if not entry.name.endswith(TEMPORARY):
                        yield _stat(entry, below)
                elif entry.is_symlink():
                    links.append((entry, below))
                elif _enter(entry, entered, skipped):
                    folders.append((entry.path, below))


def _stat(entry: "os.DirEntry[str]", name: str) -> SeenFile:
    try:
        info = entry.stat()
    except OSError:
        # A dangling link, or gone since: reading it fails later and becomes a problem.
        return _seen(entry.path, name, 0, 0)
    return _seen(entry.path, name, info.st_size, info.st_mtime_ns)


def _enter(entry: "os.DirEntry[str]", entered: set[tuple[int, int]], skipped: set[str]) -> bool:
    if skipped and os.path.realpath(entry.path) in skipped:
        return False
    info = entry.stat()
    here = (info.st_dev, info.st_ino)
    if here in entered:
        return False
    entered.add(here)
    return True


def _seen(path: str, name: str, size: int, mtime_ns: int) -> SeenFile:
    return SeenFile(path, name, size, mtime_ns, signature(_READER, name, path, size, mtime_ns))
