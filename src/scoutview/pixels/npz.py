"""npz files in MedMNIST's layout: `<split>_images` and `<split>_labels`."""

import os
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from scoutview.pixels.archive import ARCHIVE_ERRORS, open_parts, split
from scoutview.pixels.failures import pass_on
from scoutview.pixels.findings import PixelError, problem
from scoutview.pixels.headers import Found, Header, Locator
from scoutview.pixels.nifti import contract_type

SPLITS: Final = ("train", "val", "test")

Shape = tuple[int, ...]


def probe_npz(archive: zipfile.ZipFile, locator: Locator) -> Iterator[Found]:
    """Yield one header per row of every image array of an npz file, or problems.

    Args:
        archive: The open npz file.
        locator: Where it lies; `member` is set if it lies in another archive.
    """
    names = [name for name in SPLITS if f"{name}_images.npy" in archive.NameToInfo]
    if not names:
        detail = "The npz file has no arrays train_images, val_images or test_images."
        yield problem(locator, "unsupported", detail)
        return
    for name in names:
        yield from _probe_split(archive, locator, name)


def _probe_split(archive: zipfile.ZipFile, locator: Locator, name: str) -> Iterator[Found]:
    try:
        with archive.open(f"{name}_images.npy") as stream:
            shape, dtype = _read_head(stream)
        labels = _read_labels(archive, name)
    except ARCHIVE_ERRORS as error:
        pass_on(error)
        yield problem(locator, "damaged", f"The arrays of split {name!r} cannot be read.")
        return
    one, channels = (shape[1:-1], 3) if shape[-1] == 3 and len(shape) > 3 else (shape[1:], 1)
    if len(one) not in (2, 3) or dtype.kind not in "iufb" or min(shape, default=0) < 1:
        detail = f"Images of shape {shape[1:]} and type {dtype} are not supported."
        yield problem(locator, "unsupported", detail)
        return
    if labels is not None and len(labels) != shape[0]:
        detail = f"Split {name!r} has {shape[0]} images and {len(labels)} labels."
        yield problem(locator, "inconsistent", detail)
        return
    member = "!".join(part for part in (locator.member, f"{name}_images") if part)
    rows = [_named(row) for row in labels] if labels is not None else [{}] * shape[0]
    for row in range(shape[0]):
        yield Header(
            locator=Locator(locator.path, member, row),
            source="npz",
            shape=one,
            dtype=contract_type(dtype),
            channels=channels,
            bits_stored=8 * dtype.itemsize if dtype.kind in "iu" else 0,
            photometric="RGB" if channels == 3 else "MONOCHROME2",
            split=name,
            labels=rows[row],
        )


def _read_head(stream: IO[bytes]) -> tuple[Shape, np.dtype[Any]]:
    """Read shape and type of an npy stream, which must be in C order."""
    version = np.lib.format.read_magic(stream)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError("pickled or Fortran-ordered array")
    return shape, dtype


def _read_labels(archive: zipfile.ZipFile, name: str) -> NDArray[np.float64] | None:
    if f"{name}_labels.npy" not in archive.NameToInfo:
        return None
    with archive.open(f"{name}_labels.npy") as stream:
        labels = np.lib.format.read_array(stream, allow_pickle=False)
    return np.asarray(labels, dtype=np.float64).reshape(len(labels), -1)


def _named(row: NDArray[np.float64]) -> dict[str, float]:
    if len(row) == 1:
        return {"label": float(row[0])}
    return {f"label_{i}": float(value) for i, value in enumerate(row)}


def decode(locator: Locator) -> NDArray[Any]:
    """Read one row of an image array, or the whole array if `item` is -1.

    Raises:
        PixelError: The array is damaged or has no such row.
    """
    try:
        values = _array(locator.path, locator.member, os.stat(locator.path).st_mtime_ns)
        return values if locator.item < 0 else values[locator.item]
    except ARCHIVE_ERRORS as error:
        pass_on(error)
        detail = f"The array cannot be decoded ({type(error).__name__})."
        raise PixelError(problem(locator, "damaged", detail)) from error


@lru_cache(maxsize=3)
def _array(path: str, member: str, mtime_ns: int) -> NDArray[Any]:
    """Keep the last arrays: every row of a compressed array costs the whole array."""
    source, _ = open_parts(path, split(member))
    with source.stream() as stream:
        values: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    values.setflags(write=False)
    return values
