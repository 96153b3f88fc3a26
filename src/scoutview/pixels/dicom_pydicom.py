"""DICOM headers by pydicom: for odd ones, and as the oracle of `dicom_header`."""

import struct
import warnings
import zlib
from typing import Any, BinaryIO, Final, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from scoutview.pixels.dicom_classes import DEFLATED
from scoutview.pixels.dicom_header import (
    FLOAT_KEYWORDS,
    INTEGER_KEYWORDS,
    SEQUENCE_KEYWORDS,
    TEXT_KEYWORDS,
    WORD_KEYWORDS,
    DicomHeader,
    Fields,
    PixelElement,
)
from scoutview.pixels.source import Source

READ_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, BytesLengthException, EOFError,
    InvalidDicomError, LookupError, OSError, RuntimeError, StopIteration, SyntaxError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and the decoders raise for damaged files."""


def read_with_pydicom(source: Source) -> DicomHeader:
    """Read the same fields as `dicom_header.parse`, plus those of functional groups.

    Raises:
        Exception: One of `READ_ERRORS`, where pydicom cannot read the file.
    """
    with source.stream() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        meta = cast(Dataset, getattr(dataset, "file_meta", Dataset()))
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax == DEFLATED:
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
    except READ_ERRORS:
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
