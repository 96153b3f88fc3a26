"""PNG, JPEG and TIFF: grey or colour, 8 and 16 bit, as stored (no EXIF rotation, no alpha)."""

import warnings
from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from scoutview.pixels.failures import pass_on
from scoutview.pixels.findings import PixelError, problem
from scoutview.pixels.headers import Found, Header, Locator
from scoutview.pixels.source import Source

FORMATS: Final = ("PNG", "JPEG", "TIFF", "MPO")

_MAGIC: Final = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
)  # fmt: skip
_RASTER_ERRORS: Final = (
    OSError, EOFError, ValueError, SyntaxError, TypeError, LookupError, OverflowError,
    ArithmeticError, RuntimeError, UnidentifiedImageError, Image.DecompressionBombError, cv2.error,
)  # fmt: skip
_GREY: Final = {
    "1": "uint8", "L": "uint8", "LA": "uint8", "I;16": "uint16", "I;16B": "uint16",
    "I;16L": "uint16", "I;16N": "uint16", "I": "int32", "F": "float32",
}  # fmt: skip
_TAIL: Final = 1 << 12
_STRIPS: Final = ((273, 279), (324, 325))
"""TIFF tags: offsets and byte counts of strips, of tiles."""


def starts_like_raster(start: bytes) -> bool:
    """Tell whether bytes begin like PNG, JPEG or TIFF."""
    return start.startswith(_MAGIC)


def probe_raster(source: Source, locator: Locator) -> Iterator[Found]:
    """Yield the header of a PNG, JPEG or TIFF file, or one problem."""
    try:
        with source.stream() as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                width, height = image.size
                pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
                dtype, channels = _pixel_type(image)
                whole = _is_whole(image, source)
    except Image.DecompressionBombError:
        yield problem(locator, "unsupported", "The image has more than 179 million pixels.")
        return
    except _RASTER_ERRORS as error:
        pass_on(error)
        yield problem(locator, "damaged", "The image's header cannot be read.")
        return
    if not whole:
        yield problem(locator, "truncated", "The image's data end too early.")
        return
    yield Header(
        locator=locator,
        source="raster",
        shape=(height, width) if pages == 1 else (pages, height, width),
        dtype=dtype,
        channels=channels,
        bits_stored=8 * np.dtype(dtype).itemsize if dtype.startswith("uint") else 0,
        photometric="RGB" if channels == 3 else "MONOCHROME2",
        frames=pages,
    )


def _pixel_type(image: Image.Image) -> tuple[str, int]:
    if image.mode in _GREY:
        # Pillow opens 16-bit grey PNG as "I" in old versions and as "I;16" in new ones.
        wide = image.mode == "I" and image.format == "PNG"
        return ("uint16" if wide else _GREY[image.mode]), 1
    return ("uint16" if _is_deep_colour(image) else "uint8"), 3


def _is_deep_colour(image: Image.Image) -> bool:
    """Tell whether a colour image has 16 bits, which Pillow hides."""
    if image.format == "TIFF":
        bits = _several(image.tag_v2.get(258, 8))  # type: ignore[attr-defined]
        return max(bits) > 8
    return any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _is_whole(image: Image.Image, source: Source) -> bool:
    """Look for the format's end mark, without decoding."""
    if image.format == "TIFF":
        tags: dict[int, Any] = image.tag_v2  # type: ignore[attr-defined]
        last = 0
        for offsets, counts in _STRIPS:
            if offsets in tags and counts in tags:
                pairs = zip(_several(tags[offsets]), _several(tags[counts]), strict=False)
                last = max(last, *(start + count for start, count in pairs))
        return last <= source.size
    end = b"IEND" if image.format == "PNG" else b"\xff\xd9"
    if end in source.read_at(max(0, source.size - _TAIL), _TAIL):
        return True
    return end in source.read_at(0, source.size)  # something may be appended


def _several(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),)


def decode(source: Source, locator: Locator, *, palette: bool = True) -> NDArray[Any]:
    """Decode a PNG, JPEG or TIFF file.

    Args:
        source: The file.
        locator: Names the page of a TIFF in `item`; -1 is the whole.
        palette: Look palette colours up; False returns their indices.

    Returns:
        (H, W), (D, H, W) or (..., 3) in RGB order.

    Raises:
        PixelError: The file is damaged or truncated.
    """
    try:
        with source.stream() as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
                if image.mode not in _GREY and image.mode != "P" and _is_deep_colour(image):
                    return _decode_deep_colour(source)
                wanted = range(pages) if locator.item < 0 else [locator.item]
                values = [_page(image, page, palette) for page in wanted]
        return values[0] if len(values) == 1 else np.stack(values)
    except _RASTER_ERRORS as error:
        pass_on(error)
        detail = f"The pixels cannot be decoded ({type(error).__name__})."
        raise PixelError(problem(locator, "damaged", detail)) from error


def _page(image: Image.Image, page: int, palette: bool) -> NDArray[Any]:
    if page or image.format == "TIFF":
        image.seek(page)
    mode = image.mode
    if mode == "1":
        return np.asarray(image, dtype=np.uint8)
    if mode == "LA":
        return np.asarray(image)[..., 0]
    if mode in _GREY:
        values = np.asarray(image)
        wanted, _ = _pixel_type(image)
        return values.astype(wanted)
    if mode == "P" and not palette:
        return np.asarray(image)
    return np.asarray(image if mode == "RGB" else image.convert("RGB"))


def _decode_deep_colour(source: Source) -> NDArray[Any]:
    """Decode 16-bit colour, which Pillow would cut to 8 bits."""
    data = np.frombuffer(source.read_at(0, source.size), dtype=np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or values.dtype != np.uint16:
        raise ValueError("no 16-bit colour image")
    return np.ascontiguousarray(values[..., 2::-1])
