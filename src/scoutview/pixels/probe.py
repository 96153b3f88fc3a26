"""What a file is, by its content: images with their headers, non-images, or a problem.

Reasons of problems: see `scoutview.pixels.findings.REASONS`. Zip archives are opened to a depth of
three; an archive that would unpack to more than 200 times its size plus 1 GiB, a member above 2 GiB
and more than two million members are refused.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scoutview.pixels import archive, dicom_classes
from scoutview.pixels.dicom import probe_dicom
from scoutview.pixels.dicom_header import FIRST_READ, starts_like_dicom
from scoutview.pixels.failures import pass_on
from scoutview.pixels.findings import problem
from scoutview.pixels.headers import Found, Locator, NonImage
from scoutview.pixels.nifti import HEADER_BYTES, probe_nifti, starts_like_nifti
from scoutview.pixels.npz import probe_npz
from scoutview.pixels.raster import probe_raster, starts_like_raster
from scoutview.pixels.source import FileSource, Source

TEXT_KINDS: Final = ("table", "json", "xml", "text", "pdf", "document", "system")

NON_IMAGE_KINDS: Final = (*TEXT_KINDS, *sorted(dicom_classes.KINDS - {"document"}))
"""Every kind of a `NonImage`."""

_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_GZIP: Final = b"\x1f\x8b"
_NON_IMAGES: Final = (
    (b"%PDF", "pdf"),
    (b"PAR1", "table"),
    (b"\xd0\xcf\x11\xe0", "document"),
    (b"{\\rtf", "document"),
    (b"SQLite format 3", "table"),
    (b"\0\0\0\x01Bud1", "system"),
    (b"\0\x05\x16\x07", "system"),
)
_UNSUPPORTED: Final = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"RIFF", "RIFF"),
    (b"\x89HDF", "HDF5"),
    (b"NRRD", "NRRD"),
    (b"ObjectType =", "MetaImage"),
    (b"\x93NUMPY", "npy"),
    (b"7z\xbc\xaf", "7z"),
    (b"Rar!", "RAR"),
    (b"\xfd7zXZ", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xffO\xffQ", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def probe(path: str | Path) -> Iterator[Found]:
    """Say what a file holds. Content decides, not the name; bad content never raises.

    What the machine causes (no memory, no handles, a lost disk) is raised.

    Args:
        path: A file.

    Yields:
        A `Header` per image, volume or row; a `NonImage`; a `Problem`. After a header, problems
        name values that were dropped. Archives yield all of these for their members.
    """
    locator = Locator(str(path))
    try:
        source = FileSource(locator.path)
    except OSError as error:
        pass_on(error)
        yield problem(locator, "unreadable", f"The file cannot be opened ({error.strerror}).")
        return
    with source:
        try:
            yield from identify(source, locator)
        except OSError as error:
            pass_on(error)
            yield problem(locator, "unreadable", f"The file cannot be read ({error.strerror}).")


def identify(source: Source, locator: Locator, depth: int = 0) -> Iterator[Found]:
    """Say what a source holds, as `probe` does for a file; `depth` counts archives around it.

    Raises:
        OSError: The source cannot be read.
    """
    if source.size == 0:
        yield problem(locator, "empty", "The file has no content.")
        return
    start = source.read_at(0, FIRST_READ)
    if starts_like_dicom(start):
        yield from probe_dicom(source, start, locator)
    elif starts_like_raster(start):
        yield from probe_raster(source, locator)
    elif starts_like_nifti(start):
        yield from probe_nifti(source, False, locator)
    elif start.startswith(_GZIP):
        yield from _identify_gzip(source, start, locator)
    elif start.startswith(_ZIP):
        yield from _identify_zip(source, locator, depth)
    else:
        yield _identify_rest(start, locator)


def _identify_gzip(source: Source, start: bytes, locator: Locator) -> Iterator[Found]:
    try:
        inner = zlib.decompressobj(wbits=31).decompress(start, HEADER_BYTES)
    except zlib.error:
        yield problem(locator, "damaged", "The gzip data cannot be unpacked.")
        return
    if starts_like_nifti(inner):
        yield from probe_nifti(source, True, locator)
    elif len(start) == source.size and len(inner) < HEADER_BYTES:
        yield problem(locator, "truncated", "The gzip data end inside the first header.")
    else:
        detail = "A gzip file must hold a NIfTI image; other content is not read."
        yield problem(locator, "unsupported", detail)


def _identify_zip(source: Source, locator: Locator, depth: int) -> Iterator[Found]:
    if depth >= archive.DEPTH_LIMIT:
        detail = f"Archives nest deeper than {archive.DEPTH_LIMIT}."
        yield problem(locator, "archive_too_deep", detail)
        return
    with source.stream() as stream:  # an archive does not close a stream that it was given
        try:
            opened = zipfile.ZipFile(stream)
        except archive.ARCHIVE_ERRORS as error:
            pass_on(error)
            yield problem(locator, "truncated", "The archive has no readable directory at its end.")
            return
        with opened:
            yield from _identify_archive(opened, source.size, locator, depth)


def _identify_archive(
    opened: zipfile.ZipFile, packed: int, locator: Locator, depth: int
) -> Iterator[Found]:
    infos = [info for info in opened.infolist() if not info.is_dir()]
    excess = archive.excess(opened, packed)
    names = opened.NameToInfo
    if excess:
        yield problem(locator, "archive_too_large", excess)
    elif "[Content_Types].xml" in names or "mimetype" in names:
        yield NonImage(locator, "document")
    elif not infos:
        yield problem(locator, "empty", "The archive has no members.")
    elif all(info.filename.endswith(".npy") for info in infos):
        yield from probe_npz(opened, locator)
    elif any(info.filename.endswith("/data.pkl") for info in infos):
        yield problem(locator, "unsupported", "The archive is a stored model, not an image.")
    else:
        for info in infos:
            yield from _identify_member(opened, info, locator, depth)


def _identify_member(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, locator: Locator, depth: int
) -> Iterator[Found]:
    member = "!".join(part for part in (locator.member, archive.join([info.filename])) if part)
    place = Locator(locator.path, member)
    if info.flag_bits & 0x1:
        yield problem(place, "encrypted", "The archive's member is encrypted.")
        return
    if info.file_size > archive.MEMBER_LIMIT:
        detail = f"The member unpacks to more than {archive.MEMBER_LIMIT} bytes."
        yield problem(place, "archive_too_large", detail)
        return
    try:
        source = archive.MemberSource(opened, info)
        yield from identify(source, place, depth + 1)
    except archive.ARCHIVE_ERRORS as error:
        pass_on(error)
        yield problem(place, "damaged", "The archive's member cannot be unpacked.")


def _identify_rest(start: bytes, locator: Locator) -> Found:
    for magic, kind in _NON_IMAGES:
        if start.startswith(magic):
            return NonImage(locator, kind)
    for magic, name in _UNSUPPORTED:
        if start.startswith(magic) and not (len(magic) < 4 and _text_kind(start)):
            return problem(locator, "unsupported", f"{name} files are not read.")
    if start[257:262] == b"ustar":
        return problem(locator, "unsupported", "tar archives are not read.")
    if start[344:348] == b"ni1\0":
        return problem(locator, "unsupported", "NIfTI in two files (.hdr and .img) is not read.")
    kind = _text_kind(start)
    if kind:
        return NonImage(locator, kind)
    return problem(locator, "unknown_format", "The content is of no known format.")


def _text_kind(start: bytes) -> str:
    """Return "table", "json", "xml" or "text"; "" for content that is no text."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = start[: len(start) // 2 * 2].decode("utf-16", errors="replace")
        return "" if "\ufffd" in text else _kind_of_lines(text)
    if _CONTROL.search(start):
        return ""
    return _kind_of_lines(start.decode("utf-8", errors="replace"))


def _kind_of_lines(text: str) -> str:
    text = text.lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        return "xml"
    if text.startswith(("{", "[")) and _like_json(text):
        return "json"
    lines = [line for line in text.splitlines() if line.strip()][:3]
    for mark in (",", ";", "\t", "|"):
        counts = [line.count(mark) for line in lines]
        if len(counts) > 1 and counts[0] > 0 and counts[0] == counts[1]:
            return "table"
    return "text"


def _like_json(text: str) -> bool:
    """Tell whether the beginning of a text parses as JSON, or breaks only at its end."""
    try:
        json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return error.pos > 0 and error.pos >= min(len(text) - 1, 2)
    except RecursionError:
        return False
    return True
