"""Files that are whole or absent: written beside their place, synced, then renamed.

Every byte goes through `os.write`, `os.fsync` and `os.replace`, so a test can kill the process
inside each of them.
"""

import io
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from scoutview.base.errors import RunError

TEMPORARY = ".partial"
"""Suffix of files that are being written; readers ignore them, writers may delete them."""


class _Descriptor(io.RawIOBase):
    """A raw stream whose every write is one `os.write`."""

    def __init__(self, path: Path, mode: int) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return os.write(self._fd, data)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._fd)


@contextmanager
def atomic_writer(path: str | Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when it is complete.

    Args:
        path: Where the file will be. An existing file is replaced, never half-overwritten.
        mode: Permission bits, before the process's umask.

    Yields:
        A seekable binary stream.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    raw = _Descriptor(temporary, mode)
    try:
        stream = io.BufferedWriter(cast(Any, raw), buffer_size=1 << 20)
        yield cast(BinaryIO, stream)
        stream.flush()
        os.fsync(raw.fileno())
        stream.close()
        os.replace(temporary, path)
    except BaseException:
        raw.close()
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: str | Path) -> None:
    """Make renames inside a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_partial(folder: str | Path) -> None:
    """Delete what a killed writer left in a folder."""
    for leftover in Path(folder).glob(f".*{TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, *, mode: int = 0o644) -> None:
    """Write a text file atomically as UTF-8."""
    with atomic_writer(path, mode=mode) as stream:
        stream.write(text.encode())


def write_json(path: str | Path, content: dict[str, Any], *, schema: str, version: int) -> None:
    """Write a JSON object atomically, with the name and version of its schema on top."""
    whole = {"schema": schema, "schema_version": version, **content}
    write_text(path, json.dumps(whole, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: str | Path, *, schema: str, version: int) -> dict[str, Any]:
    """Read a JSON object written by `write_json`.

    Args:
        path: The file.
        schema: The schema it must have.
        version: The newest version that this code understands.

    Returns:
        The object, with `schema` removed and `schema_version` kept for upgrades.

    Raises:
        RunError: The file is missing, damaged, of another schema, or comes from a newer scoutview.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path} does not exist; expected a {schema} file there.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged (not JSON: {error}); restore or remove it.") from error
    if content.get("schema") != schema:
        raise RunError(f"{path}: expected schema {schema!r}, got {content.get('schema')!r}.")
    if content["schema_version"] > version:
        raise RunError(
            f"{path}: schema version {content['schema_version']} is newer than the {version} that"
            " this scoutview reads; update scoutview."
        )
    del content["schema"]
    return cast(dict[str, Any], content)


def relative_place(target: str | Path, folder: str | Path) -> str:
    """Say where something lies as seen from a folder, for a file that is passed on.

    An absolute path would name the machine and its users.
    """
    return os.path.relpath(Path(target).resolve(), Path(folder).resolve())


def require_empty(folder: str | Path) -> Path:
    """Create a folder for new output.

    Raises:
        RunError: Something is in the folder already.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty; choose a new folder, or resume or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
