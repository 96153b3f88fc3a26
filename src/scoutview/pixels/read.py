"""Stored pixels of anything that `probe` found."""

from collections.abc import Sequence
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scoutview.pixels import dicom_decode, nifti, npz, raster
from scoutview.pixels.archive import ARCHIVE_ERRORS, open_parts, split
from scoutview.pixels.dicom_header import FIRST_READ, starts_like_dicom
from scoutview.pixels.failures import pass_on, too_large
from scoutview.pixels.findings import PixelError, problem
from scoutview.pixels.headers import Header, Locator, Problem
from scoutview.pixels.probe import identify
from scoutview.pixels.source import FileSource, Source

_GZIP = b"\x1f\x8b"


def read(locators: Sequence[Locator] | Locator, *, palette: bool = True) -> NDArray[Any]:
    """Read stored values, without rescale or window.

    Args:
        locators: One image or volume, or the slices of a series in the order of `assemble`.
        palette: Look palette colours up; False returns their indices (labelmaps are often stored
            so).

    Returns:
        (H, W), (D, H, W), or with a last axis of 3 (RGB); uint8, uint16, int16, int32 or float32.
        Palette and YBR colour come as RGB. int8 becomes int16; uint32 and 64-bit integers int32;
        float64 float32.

    Raises:
        PixelError: A file is missing, damaged or truncated, a value does not fit, or slices differ
            in shape or type. Its `problem` is a row for the table of problems.
        MemoryError: There is not enough memory; nothing is wrong with the file.
    """
    if isinstance(locators, Locator):
        return _contract(_read_one(locators, palette), locators)
    if not locators:
        raise ValueError("read needs at least one locator")
    first = read(locators[0], palette=palette)
    if len(locators) == 1:
        return first
    volume = np.empty((len(locators), *first.shape), dtype=first.dtype)
    volume[0] = first
    for i, locator in enumerate(locators[1:], start=1):
        one = read(locator, palette=palette)
        if one.shape != first.shape or one.dtype != first.dtype:
            detail = f"A slice is {one.shape} {one.dtype}, the first {first.shape} {first.dtype}."
            raise PixelError(problem(locator, "inconsistent", detail))
        volume[i] = one
    return volume


def examine(values: NDArray[Any], locator: Locator) -> Problem | None:
    """Return the problem of undefined pixels (NaN or infinite), if there are any."""
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return None
    count = int(values.size - np.isfinite(values).sum())
    return problem(locator, "nan_pixels", f"{count} of {values.size} pixels are undefined.")


def _read_one(locator: Locator, palette: bool) -> NDArray[Any]:
    try:
        source, array = open_parts(locator.path, split(locator.member))
        if array:
            return npz.decode(locator)
        with closing(source) if isinstance(source, FileSource) else nullcontext():
            try:
                return _decode(source, locator, palette)
            except PixelError as error:
                raise _explained(error, source) from error
            except MemoryError as error:
                found = next(identify(source, locator))
                if not (isinstance(found, Header) and too_large(found)):
                    raise
                detail = "The pixels need more memory than this machine has."
                raise PixelError(problem(locator, "too_large", detail)) from error
    except FileNotFoundError as error:
        raise PixelError(problem(locator, "unreadable", "The file is not there.")) from error
    except ARCHIVE_ERRORS as error:
        pass_on(error)
        detail = f"The file cannot be opened ({type(error).__name__})."
        raise PixelError(problem(locator, "unreadable", detail)) from error


def _explained(error: PixelError, source: Source) -> PixelError:
    """Let the header say why, where it can: a truncated file is more than a damaged one."""
    found = next(identify(source, error.problem.locator))
    return PixelError(found) if isinstance(found, Problem) else error


def _decode(source: Source, locator: Locator, palette: bool) -> NDArray[Any]:
    start = source.read_at(0, FIRST_READ)
    if starts_like_dicom(start):
        return dicom_decode.decode(source, locator, palette=palette)
    if raster.starts_like_raster(start):
        return raster.decode(source, locator, palette=palette)
    zipped = start.startswith(_GZIP)
    if zipped or nifti.starts_like_nifti(start):
        return nifti.decode(source, zipped, locator)
    raise PixelError(problem(locator, "unknown_format", "The content is of no known format."))


def _contract(values: NDArray[Any], locator: Locator) -> NDArray[Any]:
    """Bring unusual types to those of the contract, refusing values that do not fit."""
    wanted = np.dtype(nifti.contract_type(values.dtype))
    if wanted == values.dtype:
        return np.ascontiguousarray(values)
    if wanted.kind == "i" and values.size:
        info = np.iinfo(wanted)
        if int(values.min()) < info.min or int(values.max()) > info.max:
            detail = f"A value of the {values.dtype} pixels does not fit into {wanted}."
            raise PixelError(problem(locator, "unsupported", detail))
    return values.astype(wanted)
