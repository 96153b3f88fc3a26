"""DICOM pixels: stored values of a file, by the fastest permissive decoder."""

import struct
import warnings
from typing import Any, BinaryIO, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag

from scoutview.pixels.dicom_classes import DEFLATED
from scoutview.pixels.dicom_pydicom import READ_ERRORS
from scoutview.pixels.failures import pass_on
from scoutview.pixels.findings import PixelError, problem
from scoutview.pixels.headers import Locator
from scoutview.pixels.source import Source

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
        if not isinstance(error, READ_ERRORS) and type(error).__module__ != "pyo3_runtime":
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
    plain = stream.read(4) == b"DICM" and syntax not in ("", DEFLATED)
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
