"""DICOM: from a file to what it says about itself, and to its pixels."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import lru_cache
from math import isfinite, nan
from typing import Any, BinaryIO, Final, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag
from pydicom.uid import UID

from scoutview.pixels import vocabulary
from scoutview.pixels.dicom_classes import SECONDARY_CAPTURE, kind_of
from scoutview.pixels.dicom_header import (
    FLOAT_KEYWORDS,
    INTEGER_KEYWORDS,
    SEQUENCE_KEYWORDS,
    TEXT_KEYWORDS,
    WORD_KEYWORDS,
    DicomHeader,
    Fields,
    PixelElement,
    parse,
)
from scoutview.pixels.failures import pass_on
from scoutview.pixels.findings import PixelError, problem
from scoutview.pixels.geometry import is_direction, normal
from scoutview.pixels.headers import Found, Header, Locator, NonImage, Problem
from scoutview.pixels.source import Source

_READ_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, BytesLengthException, EOFError,
    InvalidDicomError, LookupError, OSError, RuntimeError, StopIteration, SyntaxError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and the decoders raise for damaged files."""

_PLUGINS: Final = {
    "1.2.840.10008.1.2.5": "pylibjpeg",
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.51": "pillow",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
"""The fastest permissive decoder of each transfer syntax; pydicom chooses for all others."""

_JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
_CHECKED: Final = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_NATIVE: Final = frozenset(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _DEFLATED, _BIG_ENDIAN))
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
        except _READ_ERRORS as error:
            pass_on(error)
            yield problem(locator, "damaged", "The DICOM header cannot be read to its end.")
            return
    yield from _describe(parsed, source, locator)


def _needs_sequences(fields: Fields) -> bool:
    """Tell whether the projection can only come from a code inside a sequence."""
    return fields.get("Modality") == "MG" and "ViewPosition" not in fields


# ---- pydicom as a reader of odd headers, and as the oracle


def read_with_pydicom(source: Source) -> DicomHeader:
    """Read the same fields as `dicom_header.parse`, plus those of functional groups.

    Raises:
        Exception: One of `_READ_ERRORS`, where pydicom cannot read the file.
    """
    with source.stream() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        meta = cast(Dataset, getattr(dataset, "file_meta", Dataset()))
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax == _DEFLATED:
            pixels = _inflated_pixels(stream)
        else:
            pixels = _pixel_element(source, stream.tell(), dataset)
        fields = _plain_fields(dataset, meta)
    if not fields:
        raise InvalidDicomError("no element that an image needs")
    return DicomHeader(fields, pixels)


def _inflated_pixels(stream: BinaryIO) -> PixelElement | None:
    stream.seek(0)
    whole = pydicom.dcmread(stream, force=True)
    return PixelElement("PixelData", -1, len(whole.PixelData)) if "PixelData" in whole else None


def _pixel_element(source: Source, offset: int, dataset: Dataset) -> PixelElement | None:
    """Read the tag and length at which pydicom stopped."""
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    head = source.read_at(offset, 12)
    if len(head) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", head[:4])
    names = {8: "FloatPixelData", 9: "DoubleFloatPixelData", 16: "PixelData"}
    if group != 0x7FE0 or element not in names:
        return None
    long_form = not implicit and len(head) == 12
    (length,) = struct.unpack(f"{order}I", head[8:12] if long_form else head[4:8])
    value = offset + (12 if long_form else 8)
    return PixelElement(names[element], value, None if length == 0xFFFFFFFF else length)


def _plain_fields(dataset: Dataset, meta: Dataset) -> Fields:
    fields: Fields = {}
    for keyword in TEXT_KEYWORDS | WORD_KEYWORDS | FLOAT_KEYWORDS | INTEGER_KEYWORDS:
        value = _plain_value(keyword, _get(dataset, meta, keyword))
        if value is not None and value not in ("", ()):
            fields[keyword] = value
    for keyword in SEQUENCE_KEYWORDS:
        if keyword in dataset:
            fields[keyword] = True
    descriptor = _get(dataset, meta, "RedPaletteColorLookupTableDescriptor")
    if descriptor is not None and len(descriptor) == 3:
        fields["RedPaletteColorLookupTableDescriptor"] = tuple(int(v) & 0xFFFF for v in descriptor)
    _add_functional_groups(dataset, fields)
    _add_view_code(dataset, fields)
    return fields


def _get(dataset: Dataset, meta: Dataset, keyword: str) -> Any:
    try:
        return meta[keyword].value if keyword in meta else dataset.get(keyword)
    except _READ_ERRORS:
        return None  # a value that breaks its own type counts as missing


def _plain_value(keyword: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        several = isinstance(value, list | pydicom.multival.MultiValue)
        if keyword in FLOAT_KEYWORDS:
            return tuple(float(v) for v in (value if several else [value]) if str(v).strip())
        if keyword in INTEGER_KEYWORDS:
            return None if str(value).strip() == "" else int(value)
        words = [str(v).strip(" \0\t\r\n") for v in (value if several else [value])]
        if keyword in WORD_KEYWORDS:
            return tuple(words) if any(words) else ()
        return "\\".join(words)
    except (TypeError, ValueError, OverflowError):
        return None


def _first(dataset: Dataset, *path: str) -> Dataset | None:
    """Follow the first item of nested sequences."""
    for keyword in path:
        items = _get(dataset, Dataset(), keyword)
        if not items:
            return None
        dataset = items[0]
    return dataset


def _add_functional_groups(dataset: Dataset, fields: Fields) -> None:
    """Lift what enhanced objects keep in functional groups to where others keep it."""
    frames = _get(dataset, Dataset(), "PerFrameFunctionalGroupsSequence") or []
    groups = [_first(dataset, "SharedFunctionalGroupsSequence"), frames[0] if frames else None]
    wanted = {
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "PlanePositionSequence": ("ImagePositionPatient",),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
        "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    }
    for group in groups:
        for sequence, keywords in wanted.items():
            item = _first(group, sequence) if group is not None else None
            for keyword in keywords:
                value = _plain_value(keyword, item.get(keyword)) if item is not None else None
                if value:
                    fields.setdefault(keyword, value)
    positions = [_frame_position(frame) for frame in frames]
    if len(positions) > 1 and all(positions):
        fields["FramePositions"] = tuple(positions)


def _frame_position(frame: Dataset) -> tuple[float, ...]:
    item = _first(frame, "PlanePositionSequence")
    value = _plain_value("ImagePositionPatient", item.get("ImagePositionPatient")) if item else None
    return value or ()


_VIEW_CODES: Final = {
    "R-10242": "CC", "399162004": "CC", "R-10226": "MLO", "399368009": "MLO", "R-10224": "ML",
    "399260004": "ML", "R-10228": "LM", "399352003": "LM", "R-1024A": "XCCL",
    "R-10206": "AP", "399348003": "AP", "R-10214": "PA", "272479007": "PA",
}  # fmt: skip
"""SNOMED codes of mammography and chest views (DICOM PS3.16 CID 4014, 4010)."""


def _add_view_code(dataset: Dataset, fields: Fields) -> None:
    item = _first(dataset, "ViewCodeSequence")
    code = _VIEW_CODES.get(str(item.get("CodeValue", "")), "") if item is not None else ""
    if code:
        fields.setdefault("ViewPosition", code)


# ---- from fields to a header


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


# ---- pixels


def decode(source: Source, locator: Locator, *, palette: bool = True) -> NDArray[Any]:
    """Decode the stored values of a DICOM file.

    Args:
        source: The file.
        locator: Names the frame in `item`; -1 is the whole.
        palette: Look palette colours up; False returns their indices.

    Returns:
        (H, W), (D, H, W) or (..., 3); YBR as RGB; no rescale, no window. int8 becomes int16,
        uint32 int32, float64 float32.

    Raises:
        PixelError: The pixels cannot be decoded.
    """
    try:
        with source.stream() as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values, dataset = _decode(stream, locator.item)
            if palette and dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
                values = apply_color_lut(values, dataset)
    except BaseException as error:
        # A panic of a decoder written in Rust derives from BaseException and has no public name.
        if not isinstance(error, _READ_ERRORS) and type(error).__module__ != "pyo3_runtime":
            raise
        pass_on(error)
        detail = f"The pixels cannot be decoded ({type(error).__name__})."
        raise PixelError(problem(locator, "damaged", detail)) from error
    return values


def _decode(stream: BinaryIO, item: int) -> tuple[NDArray[Any], Dataset]:
    index = None if item < 0 else item
    head = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    meta = getattr(head, "file_meta", Dataset())
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax in _CHECKED:
        precision = _check_jpeg_streams(stream, head)
        if head.SamplesPerPixel == 1 and (precision > 8 or syntax != _JPEG_EXTENDED):
            return _decode_grey_jpeg(stream, index)
    stream.seek(0)
    if _is_plain_file(stream, syntax, head):
        stream.seek(0)
        values = pixel_array(stream, index=index, decoding_plugin=_PLUGINS.get(syntax, ""))
        return values, head
    dataset = pydicom.dcmread(stream, force=True)
    if not syntax:
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        )
    return pixel_array(dataset, index=index, decoding_plugin=_PLUGINS.get(syntax, "")), dataset


def _is_plain_file(stream: BinaryIO, syntax: str, head: Dataset) -> bool:
    """Tell whether pydicom may read frames straight from the file (preamble, not deflated)."""
    stream.seek(128)
    plain = stream.read(4) == b"DICM" and syntax not in ("", _DEFLATED)
    stream.seek(0)
    return plain and Tag("Rows") in head


def _check_jpeg_streams(stream: BinaryIO, head: Dataset) -> int:
    """Require that every JPEG stream has the size of its header, and return their precision.

    Decoders trust the stream when they ask for memory.

    Args:
        stream: At the pixel element.
        head: The file's header.

    Raises:
        ValueError: A stream differs from the header.
    """
    wanted = (int(head.Rows), int(head.Columns), int(head.SamplesPerPixel))
    largest = 0
    stream.seek(12, 1)
    while len(item := stream.read(8)) == 8 and item[:4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(item[4:], "little")
        start = stream.read(min(length, 1 << 16))
        if start[:2] == b"\xff\xd8":
            precision, *size = _jpeg_frame(start)
            if tuple(size) != wanted or not 2 <= precision <= int(head.BitsAllocated):
                raise ValueError("the header and the JPEG stream differ in size")
            largest = max(largest, precision)
        stream.seek(length - len(start), 1)
    return largest


def _jpeg_frame(start: bytes) -> tuple[int, int, int, int]:
    """Return precision, rows, columns and components of a JPEG stream's frame header.

    Source: ISO/IEC 10918-1, B.2.2.
    """
    at = 2
    while at + 10 <= len(start) and start[at] == 0xFF:
        marker, length = start[at + 1], int.from_bytes(start[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, rows, columns, parts = struct.unpack_from(">BHHB", start, at + 4)
            return precision, rows, columns, parts
        at += 1 if marker == 0xFF else 2 + length
    raise ValueError("a JPEG stream without frame header")


def _decode_grey_jpeg(stream: BinaryIO, index: int | None) -> tuple[NDArray[Any], Dataset]:
    """Decode lossless and 12-bit JPEG by libjpeg-turbo.

    Faster than gdcm, and damaged streams do not end the process; no other permissive plugin of
    pydicom decodes 12 bits.
    """
    import imagecodecs

    stream.seek(0)
    dataset = pydicom.dcmread(stream, force=True)
    count = int(dataset.get("NumberOfFrames") or 1)
    wanted = range(count) if index is None else [index]
    frames = [
        imagecodecs.jpeg8_decode(get_frame(dataset.PixelData, i, number_of_frames=count))
        for i in wanted
    ]
    if any(frame.shape != (dataset.Rows, dataset.Columns) for frame in frames):
        raise ValueError("the header and the JPEG stream differ in size")
    values = np.stack(frames) if index is None and count > 1 else frames[0]
    values = values.astype(f"uint{dataset.BitsAllocated}")
    if dataset.PixelRepresentation == 1:
        unused = int(dataset.BitsAllocated) - int(dataset.BitsStored)
        values = (values << unused).view(f"int{dataset.BitsAllocated}") >> unused
    return values, dataset
