"""A DICOM header parser for one purpose: the fields of a cohort, at disk speed.

It walks the top level of explicit and implicit little-endian data sets up to the pixel data, skips
everything it does not need, and gives up (returns None) on anything odd: pydicom reads that file
then, and is this parser's oracle in the tests.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from scoutview.pixels.source import Source

FIRST_READ: Final = 1 << 14
"""Bytes of the first read; most headers are shorter, and reading more costs time per file."""

_LARGEST_READ: Final = 1 << 26
_UNDEFINED: Final = 0xFFFFFFFF

Value = str | int | float | bytes | tuple[Any, ...] | bool
Fields = dict[str, Value]


def _tag(group: int, element: int) -> int:
    return element << 16 | group  # the four bytes of a tag as one little-endian number


@dataclass(frozen=True)
class PixelElement:
    """Where the pixel data lie; `length` is None for encapsulated data."""

    keyword: str
    offset: int
    length: int | None


@dataclass(frozen=True)
class DicomHeader:
    """The fields of one DICOM file, and its pixel element if it has one."""

    fields: Fields
    pixels: PixelElement | None
    complete: bool = True
    """False if the file ends inside its header."""


class _OddError(Exception):
    """This data set is for pydicom."""


class _MoreError(Exception):
    """The buffer ends inside an element."""


def _text(raw: bytes) -> str:
    if not raw.isascii() or b"\x1b" in raw:
        raise _OddError  # needs the file's character set
    return raw.decode("ascii").strip(" \0\t\r\n")


@lru_cache(maxsize=8192)
def _floats(raw: bytes) -> tuple[float, ...]:
    text = _text(raw)
    if not text:
        return ()
    try:
        return tuple(float(part) for part in text.split("\\"))
    except ValueError:
        raise _OddError from None


def _integer(raw: bytes) -> int | None:
    text = _text(raw)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise _OddError from None


def _short(raw: bytes) -> int | None:
    if not raw:
        return None
    if len(raw) != 2:
        raise _OddError
    return int.from_bytes(raw, "little")


def _descriptor(raw: bytes) -> tuple[int, ...]:
    if len(raw) != 6:
        raise _OddError
    return struct.unpack("<3H", raw)


def _present(raw: bytes) -> bool:
    return True


def _words(raw: bytes) -> tuple[str, ...]:
    text = _text(raw)
    return tuple(word.strip(" ") for word in text.split("\\")) if text else ()


_words_cached = lru_cache(maxsize=4096)(_words)
_text_cached = lru_cache(maxsize=4096)(_text)

Decoder = Callable[[bytes], Value | None]

WANTED: Final[dict[int, tuple[str, Decoder]]] = {
    _tag(0x0002, 0x0002): ("MediaStorageSOPClassUID", _text_cached),
    _tag(0x0002, 0x0010): ("TransferSyntaxUID", _text_cached),
    _tag(0x0008, 0x0008): ("ImageType", _words_cached),
    _tag(0x0008, 0x0016): ("SOPClassUID", _text_cached),
    _tag(0x0008, 0x0018): ("SOPInstanceUID", _text),
    _tag(0x0008, 0x0060): ("Modality", _text_cached),
    _tag(0x0008, 0x103E): ("SeriesDescription", _text_cached),
    _tag(0x0010, 0x0020): ("PatientID", _text_cached),
    _tag(0x0018, 0x0015): ("BodyPartExamined", _text_cached),
    _tag(0x0018, 0x0050): ("SliceThickness", _floats),
    _tag(0x0018, 0x0088): ("SpacingBetweenSlices", _floats),
    _tag(0x0018, 0x1120): ("GantryDetectorTilt", _floats),
    _tag(0x0018, 0x1164): ("ImagerPixelSpacing", _floats),
    _tag(0x0018, 0x5101): ("ViewPosition", _text_cached),
    _tag(0x0020, 0x000D): ("StudyInstanceUID", _text_cached),
    _tag(0x0020, 0x000E): ("SeriesInstanceUID", _text_cached),
    _tag(0x0020, 0x0013): ("InstanceNumber", _integer),
    _tag(0x0020, 0x0032): ("ImagePositionPatient", _floats),
    _tag(0x0020, 0x0037): ("ImageOrientationPatient", _floats),
    _tag(0x0020, 0x0060): ("Laterality", _text_cached),
    _tag(0x0020, 0x0062): ("ImageLaterality", _text_cached),
    _tag(0x0028, 0x0002): ("SamplesPerPixel", _short),
    _tag(0x0028, 0x0004): ("PhotometricInterpretation", _text_cached),
    _tag(0x0028, 0x0008): ("NumberOfFrames", _integer),
    _tag(0x0028, 0x0010): ("Rows", _short),
    _tag(0x0028, 0x0011): ("Columns", _short),
    _tag(0x0028, 0x0030): ("PixelSpacing", _floats),
    _tag(0x0028, 0x0100): ("BitsAllocated", _short),
    _tag(0x0028, 0x0101): ("BitsStored", _short),
    _tag(0x0028, 0x0103): ("PixelRepresentation", _short),
    _tag(0x0028, 0x0301): ("BurnedInAnnotation", _text_cached),
    _tag(0x0028, 0x1050): ("WindowCenter", _floats),
    _tag(0x0028, 0x1051): ("WindowWidth", _floats),
    _tag(0x0028, 0x1052): ("RescaleIntercept", _floats),
    _tag(0x0028, 0x1053): ("RescaleSlope", _floats),
    _tag(0x0028, 0x1056): ("VOILUTFunction", _text_cached),
    _tag(0x0028, 0x1101): ("RedPaletteColorLookupTableDescriptor", _descriptor),
    _tag(0x0028, 0x3000): ("ModalityLUTSequence", _present),
    _tag(0x0028, 0x3010): ("VOILUTSequence", _present),
}
"""Tags that a cohort needs: keyword and how its bytes become a value."""

TEXT_KEYWORDS: Final = frozenset(
    keyword for keyword, decode in WANTED.values() if decode in (_text, _text_cached)
)
WORD_KEYWORDS: Final = frozenset({"ImageType"})
FLOAT_KEYWORDS: Final = frozenset(kw for kw, decode in WANTED.values() if decode is _floats)
INTEGER_KEYWORDS: Final = frozenset(
    keyword for keyword, decode in WANTED.values() if decode in (_integer, _short)
)
SEQUENCE_KEYWORDS: Final = frozenset(kw for kw, decode in WANTED.values() if decode is _present)

_PIXELS: Final = {
    _tag(0x7FE0, 0x0008): "FloatPixelData",
    _tag(0x7FE0, 0x0009): "DoubleFloatPixelData",
    _tag(0x7FE0, 0x0010): "PixelData",
}
_ENHANCED: Final = frozenset({_tag(0x5200, 0x9229), _tag(0x5200, 0x9230)})
_ITEM: Final = _tag(0xFFFE, 0xE000)
_ITEM_END: Final = _tag(0xFFFE, 0xE00D)
_SEQUENCE_END: Final = _tag(0xFFFE, 0xE0DD)
_SYNTAX: Final = _tag(0x0002, 0x0010)

_IMPLICIT: Final = "1.2.840.10008.1.2"
_FOREIGN: Final = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
"""Big endian and deflated: pydicom's."""


def _code(vr: str) -> int:
    return int.from_bytes(vr.encode(), "little")


_LONG: Final = frozenset(map(_code, ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN",
                                     "UR", "UT", "UV")))  # fmt: skip
_SHORT: Final = frozenset(map(_code, ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS",
                                      "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL",
                                      "US")))  # fmt: skip
_UNKNOWN_VR: Final = _code("UN")
_IMPLICIT_VR: Final = 0

_EXPLICIT_HEAD: Final = struct.Struct("<IHH").unpack_from
_IMPLICIT_HEAD: Final = struct.Struct("<II").unpack_from
_LENGTH: Final = struct.Struct("<I").unpack_from


def starts_like_dicom(start: bytes) -> bool:
    """Tell whether a file's first bytes are DICOM's, with or without a preamble."""
    if start[128:132] == b"DICM" or start[:4] == b"DICM":
        return True
    if len(start) < 8 or start[:2] not in (b"\x02\x00", b"\x08\x00") or start[3] > 1:
        return False
    if start[4:6] in (b"UI", b"UL", b"CS", b"OB", b"SH", b"DA", b"TM", b"LO"):
        return True
    return start[2] in (0, 1, 5, 8, 0x12, 0x16) and 0 < _LENGTH(start, 4)[0] <= 256


def parse(source: Source, start: bytes) -> DicomHeader | None:
    """Read the wanted fields of a little-endian DICOM file.

    Args:
        source: The file.
        start: Its first bytes, already read.

    Returns:
        The header; None if the file needs pydicom.
    """
    reader = _Reader(source, start)
    try:
        return reader.parse()
    except (_OddError, struct.error):
        return None


class _Reader:
    """Walks a data set inside a buffer that it moves and grows when needed."""

    def __init__(self, source: Source, start: bytes) -> None:
        self.source = source
        self.buffer = start
        self.base = 0  # offset of the buffer in the file
        self.fields: Fields = {}
        self.complete = True

    def parse(self) -> DicomHeader:
        start = self.buffer
        explicit = True
        if start[128:132] == b"DICM":
            position = 132
        elif start[:4] == b"DICM":
            position = 4
        else:
            position = 0
            explicit = start[4:6].isalpha()
        if start[position : position + 2] == b"\x02\x00":
            position = self._file_meta(position)
            if not self.complete:
                return DicomHeader(self.fields, None, complete=False)
            syntax = self.fields.get("TransferSyntaxUID")
            if syntax in _FOREIGN or syntax is None:
                raise _OddError
            explicit = syntax != _IMPLICIT
        pixels = self._data_set(position, explicit)
        return DicomHeader(self.fields, pixels, self.complete)

    def _file_meta(self, position: int) -> int:
        """Read group 0002, which is always explicit, and return where the data set starts."""
        buffer = self.buffer
        while buffer[position : position + 2] == b"\x02\x00":
            if position + 12 > len(buffer):
                self.complete = False
                return position
            tag, vr, length = _EXPLICIT_HEAD(buffer, position)
            position += 8
            if vr in _LONG:
                (length,) = _LENGTH(buffer, position)
                position += 4
            if position + length > len(buffer):
                if self.source.size > len(buffer):
                    raise _OddError
                self.complete = False
                return position
            if tag in WANTED:
                self._keep(tag, buffer[position : position + length])
            position += length
        return position

    def _keep(self, tag: int, raw: bytes) -> None:
        keyword, decode = WANTED[tag]
        value = decode(raw)
        if value is not None and value != "" and value != ():
            self.fields[keyword] = value

    def _data_set(self, position: int, explicit: bool) -> PixelElement | None:
        walk = self._walk_explicit if explicit else self._walk_implicit
        reach = len(self.buffer)
        while True:
            try:
                return walk(position)
            except _MoreError as more:
                position = more.args[0]
                if position == self.base:
                    if position + len(self.buffer) >= self.source.size:
                        self.complete = False
                        return None
                    reach *= 4
                if reach > _LARGEST_READ:
                    raise _OddError from None
                self.buffer = self.source.read_at(position, max(reach, 1 << 16))
                self.base = position
                reach = max(reach, 1 << 16)
                if len(self.buffer) < 8:
                    self._require_end(position)
                    return None

    def _require_end(self, position: int) -> None:
        """Tell the end of the file from an end inside an element."""
        self.complete = position <= self.source.size and not self.buffer.strip(b"\0")

    def _walk_explicit(self, position: int) -> PixelElement | None:
        """Walk elements from a file offset; raise `_MoreError` with the offset to go on from."""
        buffer, base = self.buffer, self.base
        at, end = position - base, len(buffer)
        wanted, short, head = WANTED, _SHORT, _EXPLICIT_HEAD
        last = end - 12
        while at <= last:
            tag, vr, length = head(buffer, at)
            if vr in short:
                value = at + 8
            elif vr in _LONG:
                (length,) = _LENGTH(buffer, at + 8)
                value = at + 12
                if tag in _PIXELS:
                    return _pixels(tag, base + value, length)
                if length == _UNDEFINED:
                    at = self._pass_sequence(tag, vr, value, at)
                    continue
            else:
                raise _OddError
            if tag in wanted:
                if value + length > end:
                    raise _MoreError(base + at)
                self._keep(tag, buffer[value : value + length])
            elif tag in _ENHANCED:
                raise _OddError
            at = value + length
        raise _MoreError(base + at)

    def _pass_sequence(self, tag: int, vr: int, value: int, at: int) -> int:
        """Note that a sequence of undefined length is there, and return the place after it."""
        if vr == _UNKNOWN_VR or tag in _ENHANCED:
            raise _OddError
        if tag in WANTED:
            self._keep(tag, b"")
        return self._skip_sequence(value, at, explicit=vr != _IMPLICIT_VR)

    def _walk_implicit(self, position: int) -> PixelElement | None:
        buffer, base = self.buffer, self.base
        at, end = position - base, len(buffer)
        while at <= end - 8:
            tag, length = _IMPLICIT_HEAD(buffer, at)
            value = at + 8
            if tag in _PIXELS:
                return _pixels(tag, base + value, length)
            if tag in _ENHANCED:
                raise _OddError
            if length == _UNDEFINED:
                at = self._pass_sequence(tag, _IMPLICIT_VR, value, at)
                continue
            if tag in WANTED:
                if value + length > end:
                    raise _MoreError(base + at)
                self._keep(tag, buffer[value : value + length])
            at = value + length
        raise _MoreError(base + at)

    def _skip_sequence(self, at: int, element: int, *, explicit: bool) -> int:
        """Return the place after a sequence of undefined length whose items start at `at`."""
        buffer = self.buffer
        while True:
            if at + 8 > len(buffer):
                raise _MoreError(self.base + element)
            tag, length = _IMPLICIT_HEAD(buffer, at)
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise _OddError
            at = self._skip_item(at, element, explicit) if length == _UNDEFINED else at + length

    def _skip_item(self, at: int, element: int, explicit: bool) -> int:
        buffer = self.buffer
        while True:
            if at + 12 > len(buffer):
                raise _MoreError(self.base + element)
            tag, vr, length = _EXPLICIT_HEAD(buffer, at)
            if tag == _ITEM_END:
                return at + 8
            if explicit and vr in _SHORT:
                at += 8 + length
                continue
            if explicit and vr not in _LONG:
                raise _OddError
            at += 8 if explicit else 4
            (length,) = _LENGTH(buffer, at)
            at += 4
            if length != _UNDEFINED:
                at += length
            elif vr == _UNKNOWN_VR and explicit:
                raise _OddError
            else:
                at = self._skip_sequence(at, element, explicit=explicit)


def _pixels(tag: int, offset: int, length: int) -> PixelElement:
    return PixelElement(_PIXELS[tag], offset, None if length == _UNDEFINED else length)
