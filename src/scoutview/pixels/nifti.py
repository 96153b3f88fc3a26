"""NIfTI-1 and NIfTI-2 files, plain or gzipped.

Arrays come as (slice, row, column), the file's own axes in reverse; nothing is flipped or scaled.
"""

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, BinaryIO, Final, cast

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from scoutview.pixels.failures import pass_on
from scoutview.pixels.findings import PixelError, problem
from scoutview.pixels.headers import Found, Header, Locator
from scoutview.pixels.source import Source

HEADER_BYTES: Final = 540
"""Longest fixed header (NIfTI-2)."""

NIFTI_ERRORS: Final = (
    OSError, EOFError, ValueError, zlib.error, HeaderDataError, OverflowError, KeyError,
)  # fmt: skip
_MILLIMETRES: Final = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_COLOUR: Final = {128: 3, 2304: 4}
_TYPES: Final = {
    "int8": "int16", "float64": "float32", "uint32": "int32", "int64": "int32", "uint64": "int32",
    "float16": "float32", "bool": "uint8",
}  # fmt: skip
_PADDING: Final = 1 << 16


@dataclass(frozen=True)
class _Layout:
    """Where the numbers lie: file axes (i, j, k, t), type, offset."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: int
    offset: int
    header: Any

    @property
    def needed(self) -> int:
        """Bytes of the whole uncompressed file."""
        count = int(np.prod(self.shape, dtype=np.int64)) * max(1, self.channels)
        return self.offset + count * self.dtype.itemsize


def starts_like_nifti(start: bytes) -> bool:
    """Tell whether uncompressed bytes begin with a single-file NIfTI header."""
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"


def contract_type(dtype: np.dtype[Any]) -> str:
    """Return the type that `read` hands over for a stored type."""
    name = dtype.newbyteorder("=").name
    return _TYPES.get(name, name)


def probe_nifti(source: Source, zipped: bool, locator: Locator) -> Iterator[Found]:
    """Yield a header per volume of a NIfTI file, or one problem."""
    try:
        with _open(source, zipped) as stream:
            layout = _layout(stream.read(HEADER_BYTES))
    except NIFTI_ERRORS as error:
        pass_on(error)
        yield problem(locator, "damaged", "The NIfTI header cannot be read.")
        return
    if layout is None:
        detail = "Only scalar or RGB images of two to four dimensions are supported."
        yield problem(locator, "unsupported", detail)
        return
    if _is_short(source, zipped, layout.needed):
        yield problem(locator, "truncated", f"The file holds less than {layout.needed} bytes.")
        return
    header = _header(layout, locator)
    if header.spacing is None:
        yield problem(locator, "invalid_spacing", "Spacing must be > 0 mm along every axis.")
    times = layout.shape[3] if len(layout.shape) == 4 else 1
    for time in range(times):
        yield _at_time(header, time, times) if times > 1 else header


def _at_time(header: Header, time: int, times: int) -> Header:
    place = replace(header.locator, item=time)
    return replace(header, locator=place, frames=times, instance_number=time)


def _open(source: Source, zipped: bool) -> BinaryIO:
    stream = source.stream()
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if zipped else stream


def _is_short(source: Source, zipped: bool, needed: int) -> bool:
    """Tell whether data are missing; unpacks a gzip file only if its trailer looks wrong."""
    if not zipped:
        return source.size < needed
    promised = int.from_bytes(source.read_at(source.size - 4, 4), "little")
    if 0 <= promised - needed % (1 << 32) <= _PADDING:
        return False
    try:
        with _open(source, zipped) as stream:
            left = needed
            while left > 0 and (chunk := stream.read(min(left, 1 << 24))):
                left -= len(chunk)
    except NIFTI_ERRORS as error:
        pass_on(error)
        return True
    return left > 0


def _layout(start: bytes) -> _Layout | None:
    """Return the layout, None if the kind of image is not supported.

    Raises:
        Exception: One of `NIFTI_ERRORS`.
    """
    kind = nibabel.Nifti2Header if start[4:8] == b"n+2\0" else nibabel.Nifti1Header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = int(kind.sizeof_hdr)
        header = kind.from_fileobj(  # type: ignore[no-untyped-call]
            io.BytesIO(start[:size].ljust(size, b"\0")), check=False
        )
        shape = tuple(int(n) for n in header.get_data_shape())
        offset = int(header["vox_offset"]) or size + 4
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    code = int(header["datatype"])
    channels = _COLOUR.get(code, 0)
    dtype = np.dtype("u1") if channels else header.get_data_dtype()
    if not 2 <= len(shape) <= 4 or min(shape) < 1 or dtype.kind not in "iuf" or dtype.itemsize > 8:
        return None
    return _Layout(shape, dtype, channels, offset, header)


def _header(layout: _Layout, locator: Locator) -> Header:
    head, shape = layout.header, layout.shape[:3][::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        affine = np.asarray(head.get_best_affine(), dtype=np.float64)
    factor = _MILLIMETRES.get(head.get_xyzt_units()[0], 1.0)
    zooms = [abs(float(v)) * factor for v in head["pixdim"][1 : 1 + len(shape)]][::-1]
    affine[:3] *= factor
    slope, intercept = float(head["scl_slope"]), float(head["scl_inter"])
    scaled = isfinite(slope) and slope != 0
    placed = int(head["sform_code"]) > 0 or int(head["qform_code"]) > 0
    return Header(
        locator=locator,
        source="nifti",
        shape=shape,
        dtype=contract_type(layout.dtype),
        channels=3 if layout.channels else 1,
        bits_stored=8 * layout.dtype.itemsize if layout.dtype.kind in "iu" else 0,
        spacing=tuple(zooms) if all(isfinite(v) and v > 0 for v in zooms) else None,
        affine=tuple(float(v) for v in affine.ravel())
        if placed and np.isfinite(affine).all()
        else None,
        slope=slope if scaled else 1.0,
        intercept=intercept if scaled and isfinite(intercept) else 0.0,
        photometric="RGB" if layout.channels else "MONOCHROME2",
    )


def decode(source: Source, zipped: bool, locator: Locator) -> NDArray[Any]:
    """Read the stored values of a NIfTI file, unscaled.

    Returns:
        (H, W), (D, H, W), or with a last axis of 3; `locator.item` chooses a time point.

    Raises:
        PixelError: The file is damaged or truncated.
    """
    try:
        with _open(source, zipped) as stream:
            layout = _layout(stream.read(HEADER_BYTES))
            if layout is None:
                raise ValueError("unsupported kind of NIfTI image")
            return _values(stream, layout, locator.item)
    except NIFTI_ERRORS as error:
        pass_on(error)
        detail = f"The pixels cannot be decoded ({type(error).__name__})."
        raise PixelError(problem(locator, "damaged", detail)) from error


def _values(stream: BinaryIO, layout: _Layout, item: int) -> NDArray[Any]:
    axes = layout.shape[::-1]  # C order of the reversed axes is the file's Fortran order
    offset = layout.offset
    if item >= 0 and len(axes) == 4:
        if item >= axes[0]:
            raise ValueError("no such time point")
        axes = axes[1:]
        offset += item * (layout.needed - layout.offset) // layout.shape[3]
    axes = (*axes, layout.channels) if layout.channels else axes
    count = int(np.prod(axes, dtype=np.int64))
    stream.seek(offset)
    data = stream.read(count * layout.dtype.itemsize)
    values = np.frombuffer(data, dtype=layout.dtype, count=count).reshape(axes)
    return values[..., :3] if layout.channels else values.astype(values.dtype.newbyteorder("="))
