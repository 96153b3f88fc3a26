"""What a reader found, as rows of the private table, and back again as headers."""

import math
import struct
import zlib
from collections.abc import Iterator
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
from scoutview.index.schema import PRIVATE
from scoutview.index.walk import SeenFile
from scoutview.pixels.geometry import direction_code, orientation_code
from scoutview.pixels.headers import Found, Header, Locator, NonImage, Problem
from scoutview.pixels.probe import probe

STACKED: Final = frozenset({"CT", "MR", "PT"})
"""Modalities whose single-frame images of one series are slices of a volume."""

NO_GROUP: Final = -1

READ_FAILURES: Final = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What damaged bytes have been seen to raise inside readers; one file must not stop a million."""

_EMPTY: Final[dict[str, Any]] = {
    "image_id": "",
    "order": -1,
    "patient": "",
    "study": "",
    "series": "",
    "image": "",
    "source_split": "",
    "reason": "",
    "detail": "",
    "action": "",
}
_NOTHING: Final[dict[str, Any]] = {field.name: None for field in PRIVATE} | _EMPTY


class Rows:
    """Rows of one table, collected until they are written."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: dict[str, Any]) -> None:
        """Add one row; every column of the schema must be in it."""
        self._rows.append(row)

    def take(self) -> pa.Table:
        """Return what was collected and start again."""
        columns = [
            pa.array([row[field.name] for row in self._rows], field.type) for field in self._schema
        ]
        self._rows = []
        return pa.Table.from_arrays(columns, schema=self._schema)


def records(file: SeenFile, key: bytes) -> Iterator[dict[str, Any]]:
    """Probe a file and yield its rows of the private table, at least one."""
    count, last = 0, None
    try:
        for found in probe(file.path):
            count += 1
            row = record(found, file, key)
            if row["status"] == "image":
                last = row
            elif last is not None and last["member"] == row["member"]:
                # What is wrong with an image is told beside the image.
                row["group"] = last["group"]
            yield row
    except READ_FAILURES as error:
        count += 1
        # Only the kind of failure: its text may quote the file.
        yield record(
            Problem(
                Locator(file.path),
                "unreadable",
                f"Reading the file failed with {type(error).__name__}.",
                "Copy the file again from its source, or leave it out.",
            ),
            file,
            key,
        )
    if not count:
        yield record(NonImage(Locator(file.path), "empty"), file, key)


def record(found: Found, file: SeenFile, key: bytes) -> dict[str, Any]:
    """Turn one finding into a row of the private table."""
    where = found.locator
    inner = where.member.rpartition("!")[0] if "!" in where.member else where.member
    original = f"{file.name}!{inner}" if inner else file.name
    file_id = pseudonym(key, "file", original)
    row = _NOTHING | {
        "file_id": file_id,
        "group": image_key(file_id),
        "path": where.path,
        "member": where.member,
        "item": where.item,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
        "signature": file.signature,
        "name": original,
    }
    if isinstance(found, Problem):
        row["status"], row["reason"], row["action"] = "problem", found.reason, found.action
        row["detail"] = without_names(found.detail, f"{where.path}/{where.member}")
    elif isinstance(found, NonImage):
        row["status"], row["reason"] = "nonimage", found.kind
    else:
        _fill(row, found, key)
    return row


def _fill(row: dict[str, Any], header: Header, key: bytes) -> None:
    row["status"] = "image"
    row |= _pixels(header)
    row["patient"], row["study"] = header.patient_id, header.study_uid
    row["series"], row["image"] = header.series_uid, header.image_uid or _place(row)
    row["instance_number"] = header.instance_number
    row["position"], row["direction"] = header.position, header.direction
    row["source_split"] = split_word(header.split)
    row["values"] = list(header.labels.items())
    if header.series_uid:
        # All slices of a series must meet in one bucket, wherever their files lie.
        row["group"] = image_key(pseudonym(key, "series", header.series_uid))


def _place(row: dict[str, Any]) -> str:
    """Identify an image without an id of its own by where it lies below its source."""
    return f"{row['name']}|{row['member']}|{row['item']}"


def _pixels(header: Header) -> dict[str, Any]:
    deep = len(header.shape) == 3
    spacing = header.spacing or (math.nan,) * len(header.shape)
    burned = {None: "", True: "yes", False: "no"}[header.burned_in]
    return {
        "source": word("source", header.source),
        "modality": word("modality", header.modality),
        "body_part": word("body_part", header.body_part),
        "projection": word("projection", header.projection),
        "laterality": word("laterality", header.laterality),
        "height": header.shape[-2],
        "width": header.shape[-1],
        "n_slices": header.shape[0] if deep else 1,
        "channels": header.channels,
        "frames": header.frames,
        "dtype": word("dtype", header.dtype),
        "bits_stored": header.bits_stored,
        "spacing_z": spacing[0] if deep else math.nan,
        "spacing_y": spacing[-2],
        "spacing_x": spacing[-1],
        "orientation": _orientation(header),
        "gantry_tilt": header.gantry_tilt,
        "slope": header.slope,
        "intercept": header.intercept,
        "window_center": _number(header.window_center),
        "window_width": _number(header.window_width),
        "voi_lut": header.voi_lut,
        "photometric": word("photometric", header.photometric),
        "transfer_syntax": word("transfer_syntax", header.transfer_syntax),
        "burned_in": burned,
        "secondary_capture": header.secondary_capture,
        "localizer": header.localizer,
    }


def _orientation(header: Header) -> str:
    if header.direction is not None:
        return plane_code(header.direction)
    return "" if header.affine is None else orientation_code(header.affine)


@lru_cache(maxsize=4096)
def plane_code(direction: tuple[float, ...]) -> str:
    """Return the orientation code of direction cosines; cached, as a series shares them."""
    return direction_code([round(cosine, 4) for cosine in direction])


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def header(row: dict[str, Any]) -> Header:
    """Rebuild what assembling a series needs from a single-frame row of the private table."""
    spacing = (row["spacing_y"], row["spacing_x"])
    return Header(
        locator=Locator(row["path"], row["member"], row["item"]),
        source=row["source"],
        shape=(row["height"], row["width"]),
        dtype=row["dtype"],
        channels=row["channels"],
        modality=row["modality"],
        spacing=None if math.isnan(spacing[0]) else spacing,
        position=None if row["position"] is None else tuple(row["position"]),
        direction=None if row["direction"] is None else tuple(row["direction"]),
        gantry_tilt=row["gantry_tilt"],
        slope=row["slope"],
        intercept=row["intercept"],
        localizer=row["localizer"],
        series_uid=row["series"],
        image_uid=row["image"],
        instance_number=row["instance_number"],
    )


def stacks(row: dict[str, Any]) -> bool:
    """Say whether an image is a slice that may belong to a volume."""
    return bool(
        row["series"]
        and row["modality"] in STACKED
        and row["n_slices"] == 1
        and not row["localizer"]
    )
