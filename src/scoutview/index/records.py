"""What a reader found, as rows of the private table, and back again as headers."""

import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa

from scoutview.index.privacy import (
    image_key,
    pseudonym,
    split_word,
    without_names,
    word,
)
from scoutview.index.schema import HEADER, PRIVATE
from scoutview.index.walk import SeenFile
from scoutview.pixels import dicom_classes
from scoutview.pixels.failures import pass_on
from scoutview.pixels.geometry import direction_code, orientation_code
from scoutview.pixels.headers import Found, Header, Locator, NonImage, Problem
from scoutview.pixels.probe import probe

STACKED: Final = frozenset({"CT", "MR", "PT"})
"""Modalities whose single-frame images of one series are slices of a volume."""

NO_GROUP: Final = -1

_GROUP: Final = PRIVATE.get_field_index("group")

READ_FAILURES: Final = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,  # where the file asks for more than any machine has
    NotImplementedError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What damaged bytes have been seen to raise inside readers; one file must not stop a million."""

_IMAGE_ENDINGS: Final = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom", ".nii", ".nii.gz",
)  # fmt: skip

_HONEST_KINDS: Final = dicom_classes.KINDS | {"system"}
"""What a file with such an ending may be without an image: DICOM objects, files of the system."""

_NO_IDS: Final = ("", "", "", "", None, None, None, "", None)
_NO_PIXELS: Final = (None,) * len(HEADER)

Record = tuple[Any, ...]
"""One row of the private table, its values in the order of `PRIVATE`."""


def table_of(rows: Sequence[Record]) -> pa.Table:
    """Turn rows into a table, column by column."""
    columns = zip(*rows, strict=True) if rows else [()] * len(PRIVATE)
    arrays = [pa.array(values, at.type) for values, at in zip(columns, PRIVATE, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PRIVATE)


def records(file: SeenFile, key: bytes) -> Iterator[Record]:
    """Probe a file and yield its rows of the private table, at least one."""
    count, member, group = 0, "", NO_GROUP
    try:
        for found in named_right(probe(file.path)):
            count += 1
            if isinstance(found, Header):
                row = record(found, file, key)
                member, group = found.locator.member, row[_GROUP]
            else:
                # What is wrong with an image is told beside the image.
                beside = group if found.locator.member == member else NO_GROUP
                row = record(found, file, key, beside)
            yield row
    except READ_FAILURES as error:
        pass_on(error)
        count += 1
        # Only the kind of failure: its text may quote the file.
        detail = f"Reading the file failed with {type(error).__name__}."
        yield record(_lost(file, "unreadable", detail), file, key)
    if not count:
        yield record(NonImage(Locator(file.path), "empty"), file, key)


def named_right(findings: Iterable[Found]) -> Iterator[Found]:
    """Hand findings on; content that is no image under the name of one becomes a problem."""
    for found in findings:
        if isinstance(found, NonImage) and found.kind not in _HONEST_KINDS:
            name = (found.locator.member or found.locator.path).lower()
            ending = next((end for end in _IMAGE_ENDINGS if name.endswith(end)), "")
            if ending:
                detail = f"The name ends in {ending}, but the content is no image ({found.kind})."
                action = "Export or download the image again, or rename or remove the file."
                yield Problem(found.locator, "not_an_image", detail, action)
                continue
        yield found


def crashed(file: SeenFile, key: bytes) -> Iterator[Record]:
    """Yield the row of a file that ended the process that read it."""
    detail = "Reading the file ended the process that read it."
    yield record(_lost(file, "damaged", detail), file, key)


def _lost(file: SeenFile, reason: str, detail: str) -> Problem:
    action = "Copy the file again from its source, or leave it out."
    return Problem(Locator(file.path), reason, detail, action)


def record(found: Found, file: SeenFile, key: bytes, group: int = NO_GROUP) -> Record:
    """Turn one finding into a row of the private table.

    Args:
        found: What the reader said.
        file: The file, or the archive around it.
        key: The cohort's secret key.
        group: Rows of one group are looked at together; by default those of a series or file.
    """
    where = found.locator
    inner = where.member.rpartition("!")[0] if "!" in where.member else where.member
    name = f"{file.name}!{inner}" if inner else file.name
    file_id = pseudonym(key, "file", name)
    if isinstance(found, Header):
        status, pixels = "image", _pixels(found)
        # An image without an id of its own is known by where it lies below its source.
        image = found.image_uid or f"{name}|{where.member}|{where.item}"
        rest: Record = (
            found.patient_id,
            found.study_uid,
            found.series_uid,
            image,
            found.instance_number,
            found.position,
            found.direction,
            split_word(found.split),
            list(found.labels.items()),
            "",  # no reason, detail and action
            "",
            "",
        )
        if found.series_uid:
            # All slices of a series must meet in one bucket, wherever their files lie.
            group = image_key(pseudonym(key, "series", found.series_uid))
    elif isinstance(found, Problem):
        status, pixels = "problem", _NO_PIXELS
        detail = without_names(found.detail, f"{where.path}/{where.member}")
        rest = (*_NO_IDS, found.reason, detail, found.action)
    else:
        status, pixels = "nonimage", _NO_PIXELS
        rest = (*_NO_IDS, found.kind, "", "")
    if group == NO_GROUP:
        group = image_key(file_id)
    return (
        file_id,
        "",  # image_id and order are given when rows are grouped
        -1,
        status,
        where.path,
        where.member,
        where.item,
        file.size,
        file.mtime_ns,
        file.signature,
        name,
        group,
        *rest,
        *pixels,
    )


def _pixels(header: Header) -> Record:
    """Return the values of `HEADER`, in its order."""
    deep = len(header.shape) == 3
    spacing = header.spacing or (math.nan,) * len(header.shape)
    source, modality, body_part, projection, laterality, dtype, photometric, syntax = _words(
        header.source,
        header.modality,
        header.body_part,
        header.projection,
        header.laterality,
        header.dtype,
        header.photometric,
        header.transfer_syntax,
    )
    return (
        source,
        modality,
        body_part,
        projection,
        laterality,
        header.shape[-2],
        header.shape[-1],
        header.shape[0] if deep else 1,
        header.channels,
        header.frames,
        dtype,
        header.bits_stored,
        spacing[0] if deep else math.nan,
        spacing[-2],
        spacing[-1],
        _orientation(header),
        header.gantry_tilt,
        header.slope,
        header.intercept,
        math.nan if header.window_center is None else header.window_center,
        math.nan if header.window_width is None else header.window_width,
        header.voi_lut,
        photometric,
        syntax,
        _BURNED_IN[header.burned_in],
        header.secondary_capture,
        header.localizer,
    )


_BURNED_IN: Final = {None: "", True: "yes", False: "no"}


@lru_cache(maxsize=4096)
def _words(*values: str) -> tuple[str, ...]:
    """Pass words through the gates of their vocabularies; cached together, as files repeat them."""
    return tuple(word(field, value) for field, value in zip(_WORDS, values, strict=True))


_WORDS: Final = (
    "source", "modality", "body_part", "projection", "laterality", "dtype", "photometric",
    "transfer_syntax",
)  # fmt: skip


def _orientation(header: Header) -> str:
    if header.direction is not None:
        return plane_code(header.direction)
    return "" if header.affine is None else orientation_code(header.affine)


@lru_cache(maxsize=4096)
def plane_code(direction: tuple[float, ...]) -> str:
    """Return the orientation code of direction cosines; cached, as a series shares them."""
    return direction_code([round(cosine, 4) for cosine in direction])


def header(row: dict[str, Any]) -> Header:
    """Rebuild what assembling a series needs from a single-frame row of the private table."""
    made = object.__new__(Header)
    # The constructor of a frozen class sets 33 fields one by one: a tenth of the whole build.
    # Defaults that are not named here are attributes of the class.
    vars(made).update(
        locator=Locator(row["path"], row["member"], row["item"]),
        source=row["source"],
        shape=(row["height"], row["width"]),
        dtype=row["dtype"],
        channels=row["channels"],
        modality=row["modality"],
        spacing=None if math.isnan(row["spacing_y"]) else (row["spacing_y"], row["spacing_x"]),
        position=None if row["position"] is None else tuple(row["position"]),
        direction=None if row["direction"] is None else tuple(row["direction"]),
        gantry_tilt=row["gantry_tilt"],
        slope=row["slope"],
        intercept=row["intercept"],
        localizer=row["localizer"],
        series_uid=row["series"],
        image_uid=row["image"],
        instance_number=row["instance_number"],
        labels={},
    )
    return made


def stacks(row: dict[str, Any]) -> bool:
    """Say whether an image is a slice that may belong to a volume."""
    return bool(
        row["series"]
        and row["modality"] in STACKED
        and row["n_slices"] == 1
        and not row["localizer"]
    )
