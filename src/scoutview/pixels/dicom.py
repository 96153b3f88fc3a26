"""DICOM: what a file says about itself."""

from collections.abc import Iterator
from functools import lru_cache
from math import isfinite, nan
from typing import Any, Final, cast

import numpy as np
import pydicom
from pydicom.uid import UID

from scoutview.pixels import vocabulary
from scoutview.pixels.dicom_classes import DEFLATED, SECONDARY_CAPTURE, kind_of
from scoutview.pixels.dicom_header import DicomHeader, Fields, parse
from scoutview.pixels.dicom_pydicom import READ_ERRORS, read_with_pydicom
from scoutview.pixels.failures import pass_on
from scoutview.pixels.findings import problem
from scoutview.pixels.geometry import is_direction, normal
from scoutview.pixels.headers import Found, Header, Locator, NonImage, Problem
from scoutview.pixels.source import Source

_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_NATIVE: Final = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", DEFLATED, _BIG_ENDIAN))
_VIDEOS: Final = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in range(100, 109))
_SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0"
_SCOUT_WORDS: Final = ("LOCALIZER", "LOCALISER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM")
_NEEDS_SPACING: Final = ("CT", "MR", "PT")


def probe_dicom(source: Source, start: bytes, locator: Locator) -> Iterator[Found]:
    """Yield what a DICOM file is: an image's header, a non-image, or a problem.

    Args:
        source: The file.
        start: Its first bytes.
        locator: Where it lies.

    Yields:
        One header, non-image or problem; after a header, problems of values that were dropped.
    """
    parsed = parse(source, start)
    if parsed is None or _needs_sequences(parsed.fields):
        try:
            parsed = read_with_pydicom(source)
        except READ_ERRORS as error:
            pass_on(error)
            yield problem(locator, "damaged", "The DICOM header cannot be read to its end.")
            return
    yield from _describe(parsed, source, locator)


def _needs_sequences(fields: Fields) -> bool:
    """Tell whether the projection can only come from a code inside a sequence."""
    return fields.get("Modality") == "MG" and "ViewPosition" not in fields


def _describe(parsed: DicomHeader, source: Source, locator: Locator) -> Iterator[Found]:
    fields = parsed.fields
    sop_class = str(fields.get("SOPClassUID") or fields.get("MediaStorageSOPClassUID") or "")
    kind = kind_of(sop_class, str(fields.get("Modality", "")))
    if kind:
        yield NonImage(locator, kind)
        return
    if not parsed.complete:
        yield problem(locator, "truncated", "The file ends inside its header.")
        return
    if parsed.pixels is None and "Rows" not in fields and not _is_image_class(sop_class):
        yield NonImage(locator, "other_object")
        return
    broken = _broken(parsed, source, locator)
    if broken is not None:
        yield broken
        return
    found: list[Problem] = []
    yield _header(parsed, sop_class, locator, found)
    yield from found


@lru_cache(maxsize=256)
def _is_image_class(sop_class: str) -> bool:
    return "Image Storage" in UID(sop_class, validation_mode=pydicom.config.IGNORE).name


def _broken(parsed: DicomHeader, source: Source, locator: Locator) -> Problem | None:
    """Return why the pixels cannot be read, without decoding them."""
    fields, pixels = parsed.fields, parsed.pixels
    if pixels is None:
        return problem(locator, "no_pixels", "The object is an image without pixel data.")
    rows, columns = _integer(fields, "Rows"), _integer(fields, "Columns")
    bits, samples = _integer(fields, "BitsAllocated"), _integer(fields, "SamplesPerPixel", 1)
    frames = max(1, _integer(fields, "NumberOfFrames", 1))
    if min(rows, columns) < 1 or bits not in (1, 8, 16, 32, 64) or samples not in (1, 3):
        detail = f"{rows} x {columns} pixels, {samples} samples of {bits} bits is not an image."
        return problem(locator, "inconsistent", detail)
    if pixels.keyword == "PixelData" and bits == 64:
        return problem(locator, "unsupported", "64-bit integer pixels are not supported.")
    syntax = str(fields.get("TransferSyntaxUID", ""))
    if syntax in _VIDEOS:
        return problem(locator, "unsupported", "The pixels are a video stream.")
    if pixels.length is None:
        if pixels.offset >= 0 and not _fragments_end(source, pixels.offset):
            return problem(locator, "truncated", "The compressed pixel data have no end.")
        return None
    if pixels.offset >= 0 and pixels.offset + pixels.length > source.size:
        missing = pixels.offset + pixels.length - source.size
        return problem(locator, "truncated", f"The last {missing} bytes of the pixels are missing.")
    if syntax in _NATIVE or not syntax:
        bytes_needed = (rows * columns * _stored_samples(fields) * frames * bits + 7) // 8
        if pixels.length < bytes_needed:
            detail = f"{pixels.length} bytes of pixels where the header needs {bytes_needed}."
            return problem(locator, "truncated", detail)
    return None


def _stored_samples(fields: Fields) -> float:
    photometric = fields.get("PhotometricInterpretation")
    return 2 if photometric == "YBR_FULL_422" else _integer(fields, "SamplesPerPixel", 1)


def _fragments_end(source: Source, offset: int) -> bool:
    """Tell whether the fragments of encapsulated pixels reach their end within the file."""
    if source.read_at(source.size - 8, 8)[:4] == _SEQUENCE_END:
        return True
    while True:
        head = source.read_at(offset, 8)
        if head[:4] == _SEQUENCE_END:
            return True
        if head[:4] != b"\xfe\xff\x00\xe0" or len(head) < 8:
            return False
        offset += 8 + int.from_bytes(head[4:], "little")


def _integer(fields: Fields, keyword: str, default: int = 0) -> int:
    value = fields.get(keyword, default)
    return value if isinstance(value, int) else default


def _number(fields: Fields, keyword: str) -> float | None:
    values = cast(tuple[float, ...], fields.get(keyword, ()))
    return values[0] if values and isfinite(values[0]) else None


def _tilt(fields: Fields) -> float:
    """Read the gantry's tilt in degrees; what cannot be an angle there counts as none."""
    tilt = _number(fields, "GantryDetectorTilt") or 0.0
    return tilt if abs(tilt) <= 90 else 0.0


def _word(fields: Fields, keyword: str) -> str:
    return cast(str, fields.get(keyword, ""))


def _header(parsed: DicomHeader, sop_class: str, locator: Locator, found: list[Problem]) -> Header:
    fields = parsed.fields
    frames = max(1, _integer(fields, "NumberOfFrames", 1))
    plane = (_integer(fields, "Rows"), _integer(fields, "Columns"))
    dtype, channels = _pixel_type(parsed)
    burned = _word(fields, "BurnedInAnnotation")
    slope, intercept = _rescale(fields, locator, found)
    position, direction = _placement(fields, locator, found)
    modality = vocabulary.modality(_word(fields, "Modality"))
    width = _number(fields, "WindowWidth")
    return Header(
        locator=locator,
        source="dicom",
        shape=plane if frames == 1 else (frames, *plane),
        dtype=dtype,
        channels=channels,
        bits_stored=_integer(fields, "BitsStored"),
        modality=modality,
        body_part=vocabulary.body_part(_word(fields, "BodyPartExamined")),
        projection=vocabulary.projection(_word(fields, "ViewPosition")),
        laterality=vocabulary.laterality(
            _word(fields, "ImageLaterality") or _word(fields, "Laterality")
        ),
        spacing=_spacing(fields, frames, direction, modality, locator, found),
        position=position,
        direction=direction,
        gantry_tilt=_tilt(fields),
        slope=slope,
        intercept=intercept,
        window_center=_number(fields, "WindowCenter") if width is not None else None,
        window_width=width,
        voi_lut="VOILUTSequence" in fields or _word(fields, "VOILUTFunction") == "SIGMOID",
        photometric=_photometric(fields),
        transfer_syntax=_syntax(_word(fields, "TransferSyntaxUID")),
        burned_in={"YES": True, "NO": False}.get(burned),
        secondary_capture=sop_class.startswith(SECONDARY_CAPTURE)
        and sop_class[len(SECONDARY_CAPTURE) :][:1] in ("", "."),
        localizer=_is_localizer(fields),
        frames=frames,
        patient_id=_word(fields, "PatientID"),
        study_uid=_word(fields, "StudyInstanceUID"),
        series_uid=_word(fields, "SeriesInstanceUID"),
        image_uid=_word(fields, "SOPInstanceUID"),
        instance_number=cast(int | None, fields.get("InstanceNumber")),
    )


_PHOTOMETRICS: Final = frozenset(
    ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422",
     "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB")
)  # fmt: skip


def _photometric(fields: Fields) -> str:
    """Return a word of the closed list; what a header's author typed never passes."""
    word = _word(fields, "PhotometricInterpretation")
    return word if word in _PHOTOMETRICS else vocabulary.OTHER if word else vocabulary.UNKNOWN


@lru_cache(maxsize=256)
def _syntax(uid: str) -> str:
    """Return a registered transfer syntax, "other" for private ones, "" for none."""
    known = UID(uid, validation_mode=pydicom.config.IGNORE).type == "Transfer Syntax"
    return uid if known or not uid else vocabulary.OTHER


@lru_cache(maxsize=64)
def _integer_type(bits: int, signed: bool) -> str:
    if bits <= 8:
        return "int16" if signed and bits == 8 else "uint8"
    if bits == 16:
        return "int16" if signed else "uint16"
    return "int32"


def _pixel_type(parsed: DicomHeader) -> tuple[str, int]:
    """Return the type and channels that `decode` returns."""
    fields = parsed.fields
    channels = _integer(fields, "SamplesPerPixel", 1)
    if parsed.pixels is not None and parsed.pixels.keyword != "PixelData":
        return "float32", channels
    if _word(fields, "PhotometricInterpretation") == "PALETTE COLOR":
        descriptor = cast(tuple[int, ...], fields.get("RedPaletteColorLookupTableDescriptor", ()))
        return ("uint8" if len(descriptor) == 3 and descriptor[2] == 8 else "uint16"), 3
    signed = _integer(fields, "PixelRepresentation") == 1
    return _integer_type(_integer(fields, "BitsAllocated"), signed), channels


def _rescale(fields: Fields, locator: Locator, found: list[Problem]) -> tuple[float, float]:
    slope = cast(tuple[float, ...], fields.get("RescaleSlope", (1.0,)))[0]
    intercept = cast(tuple[float, ...], fields.get("RescaleIntercept", (0.0,)))[0]
    if slope == 0 or not isfinite(slope) or not isfinite(intercept):
        found.append(problem(locator, "invalid_value", "Rescale slope or intercept is no use."))
        return 1.0, 0.0
    return slope, intercept


def _placement(
    fields: Fields, locator: Locator, found: list[Problem]
) -> tuple[tuple[float, float, float] | None, Any]:
    position = cast(tuple[float, ...], fields.get("ImagePositionPatient", ()))
    direction = cast(tuple[float, ...], fields.get("ImageOrientationPatient", ()))
    if direction and not _valid_direction(direction):
        found.append(problem(locator, "invalid_value", "The image orientation is not one."))
        direction = ()
    if position and (len(position) != 3 or not all(map(isfinite, position))):
        found.append(problem(locator, "invalid_value", "The image position is not one."))
        position = ()
    return cast(Any, position or None), direction or None


_valid_direction = lru_cache(maxsize=4096)(is_direction)


def _spacing(
    fields: Fields,
    frames: int,
    direction: tuple[float, ...] | None,
    modality: str,
    locator: Locator,
    found: list[Problem],
) -> tuple[float, ...] | None:
    """Return (y, x), or (z, y, x) with NaN for an unknown z; None if unknown or impossible."""
    raw = fields.get("PixelSpacing") or fields.get("ImagerPixelSpacing") or ()
    inside = cast(tuple[float, ...], raw)
    if not inside:
        if modality in _NEEDS_SPACING:
            found.append(problem(locator, "missing_spacing", "The header has no pixel spacing."))
        return None
    if len(inside) != 2 or not all(isfinite(v) and v > 0 for v in inside):
        detail = "The pixel spacing must be two numbers > 0 mm."
        found.append(problem(locator, "invalid_spacing", detail))
        return None
    if frames == 1:
        return inside
    return (_frame_step(fields, direction, locator, found), *inside)


def _frame_step(
    fields: Fields, direction: tuple[float, ...] | None, locator: Locator, found: list[Problem]
) -> float:
    """Return the distance between frames in mm, NaN if unknown."""
    positions = np.array(fields.get("FramePositions", ()), dtype=np.float64)
    if len(positions) and direction is not None:
        gaps = np.diff(positions @ normal(direction))
        step = float(np.median(np.abs(gaps)))
        if np.any(np.abs(gaps - np.median(gaps)) > max(0.05, 0.01 * step)):
            detail = "The frames do not lie at equal distances in stored order."
            found.append(problem(locator, "uneven_spacing", detail))
        return step if step > 0 else nan
    between = _number(fields, "SpacingBetweenSlices")
    return between if between is not None and between > 0 else nan


def _is_localizer(fields: Fields) -> bool:
    words = cast(tuple[str, ...], fields.get("ImageType", ()))
    if "LOCALIZER" in words:
        return True
    description = _word(fields, "SeriesDescription").upper()
    return any(word in description for word in _SCOUT_WORDS)
