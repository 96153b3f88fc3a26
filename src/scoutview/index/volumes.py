"""From single rows to images and volumes: the slices of a series become one."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from scoutview.index.privacy import image_key, pseudonym, without_names
from scoutview.index.records import STACKED, header, plane_code, stacks
from scoutview.pixels.headers import Locator, Problem
from scoutview.pixels.series import Assembly, assemble

Row = dict[str, Any]

_SAME: Final = (
    "size", "position", "direction", "instance_number", "height", "width", "n_slices", "channels",
    "dtype", "slope", "intercept", "transfer_syntax",
)  # fmt: skip
"""What two files of one image id must share to count as one file copied."""

_ANOTHER_VOLUME: Final = frozenset({"mixed_orientation", "mixed_geometry"})
"""Findings of slices that do not belong to this volume but may make another one."""


@dataclass
class Grouped:
    """What one group of rows became."""

    index: list[Row] = field(default_factory=list)
    """New images: ids, kind, `at` (the row whose header they have) and `changed` header values."""
    private: list[Row] = field(default_factory=list)
    """The rows that came, now with `image_id` and `order`."""
    problems: list[Row] = field(default_factory=list)


def group_rows(rows: Iterable[Row], key: bytes) -> Grouped:
    """Turn the rows of one series, or of one file, into images and volumes.

    Args:
        rows: Rows of the private table that share `group`, sorted by name, member and item, so
            that the file that stays of two equal ones is the same in every run.
        key: The cohort's secret key.
    """
    out = Grouped()
    slices: list[Row] = []
    taken: dict[str, Row] = {}
    for row in rows:
        out.private.append(row)
        row["image_id"], row["order"] = "", -1
        if row["status"] == "problem":
            out.problems.append(_problem(row, row["reason"], row["detail"], row["action"]))
        elif row["status"] == "image" and _is_copy(row, taken):
            out.problems.append(_copy(row))
        elif row["status"] == "image":
            if row["image"] in taken:
                out.problems.append(_same_id(row))
                row["image"] = f"{row['image']}|{row['name']}"
            taken[row["image"]] = row
            if stacks(row):
                slices.append(row)
            else:
                _add_image(out, row, key)
    if slices:
        _add_stacks(out, slices, key)
        _report_localizers(out)
    by_file = {row["file_id"]: row["image_id"] for row in out.private if row["image_id"]}
    for problem in out.problems:
        problem["image_id"] = problem["image_id"] or by_file.get(problem["file_id"], "")
    return out


def _add_stacks(out: Grouped, rest: list[Row], key: bytes) -> None:
    """Assemble volumes until no slice is left; each round takes the largest equal group."""
    planes: list[str] = []
    first = rest[0]
    while rest:
        by_place = {(row["path"], row["member"], row["item"]): row for row in rest}
        assembly = assemble([header(row) for row in rest])
        used = [by_place[_place(part.locator)] for part in assembly.slices]
        planes.append(_plane(used[0]))
        again = {_place(f.locator) for f in assembly.findings if f.reason in _ANOTHER_VOLUME}
        rest = [row for place, row in by_place.items() if place in again]
        if len(used) > 1:
            _add_volume(out, f"{planes[-1]}|{planes.count(planes[-1])}", used, assembly, key)
            out.problems += [
                _finding(by_place[_place(finding.locator)], finding)
                for finding in assembly.findings
                if finding.reason not in _ANOTHER_VOLUME
            ]
        else:
            # One position is no stack: every file is an image of its own.
            if len(by_place) > len(rest) + 1:
                out.problems.append(_one_position(used[0]))
            for place, row in by_place.items():
                if place not in again:
                    _add_image(out, row, key)
    if len(planes) > 1:
        _report_mixed(out, first, planes)


def _place(locator: Locator) -> tuple[str, str, int]:
    return locator.path, locator.member, locator.item


def _plane(row: Row) -> str:
    """Name what the slices of one volume have in common; part of the volume's identity."""
    direction = [round(value, 3) + 0.0 for value in row["direction"] or ()]
    return f"{row['height']}x{row['width']}x{row['channels']}|{row['dtype']}|{direction}"


def _add_volume(out: Grouped, plane: str, used: list[Row], assembly: Assembly, key: bytes) -> None:
    middle = used[len(used) // 2]
    image_id = pseudonym(key, "image", f"{middle['series']}|{plane}")
    spacing = assembly.spacing or (math.nan, math.nan, math.nan)
    direction = assembly.direction
    changed = {
        "n_slices": len(used),
        "spacing_z": spacing[0],
        "spacing_y": spacing[1],
        "spacing_x": spacing[2],
        "gantry_tilt": assembly.gantry_tilt,
        "orientation": plane_code(direction) if direction else "",
    }
    out.index.append(_index_row(middle, image_id, key) | {"kind": "volume", "changed": changed})
    for order, member in enumerate(used):
        member["image_id"], member["order"] = image_id, order
    if len({(member["slope"], member["intercept"]) for member in used}) > 1:
        out.problems.append(
            _problem(
                middle,
                "varying_rescale",
                "The slices of the series have different rescale slopes or intercepts; the index"
                " keeps those of the middle slice.",
                "Compare intensities within slices only, or rescale the series at its source.",
            )
        )


def _add_image(out: Grouped, row: Row, key: bytes) -> None:
    image_id = pseudonym(key, "image", row["image"])
    row["image_id"], row["order"] = image_id, 0
    out.index.append(_index_row(row, image_id, key))


def _index_row(row: Row, image_id: str, key: bytes) -> Row:
    return {
        "at": row["at"],
        "changed": {},
        "image_id": image_id,
        "image_key": image_key(image_id),
        "patient_id": _patient(row, image_id, key),
        "study_id": pseudonym(key, "study", row["study"]),
        "series_id": pseudonym(key, "series", row["series"]),
        "file_id": row["file_id"],
        "kind": "volume" if row["n_slices"] > 1 else "image",
        "split": row["source_split"],
        "fold": -1,
        "labelmap": False,
        "report": False,
    }


def _patient(row: Row, image_id: str, key: bytes) -> str:
    """Without a patient id, the study, the series or the image is what must not be split."""
    nearest = row["patient"] or row["study"] or row["series"]
    return pseudonym(key, "patient", nearest) or image_id


def _report_localizers(out: Grouped) -> None:
    out.problems += [
        _problem(
            row,
            "localizer",
            "A localiser stands in a series of slices; it became an image of its own.",
            "Nothing; the localiser stays out of the volume.",
        )
        for row in out.private
        if _is_localizer(row)
    ]


def _report_mixed(out: Grouped, first: Row, planes: list[str]) -> None:
    turned = len({plane.rpartition("|")[2] for plane in planes}) > 1
    out.problems.append(
        _problem(
            first,
            "mixed_orientation" if turned else "mixed_geometry",
            f"The series holds {len(planes)} kinds of slices (plane, matrix, spacing or type); each"
            " kind became an image or volume of its own.",
            "Check that these belong together before you compare them.",
        )
    )


def _is_localizer(row: Row) -> bool:
    return row["status"] == "image" and bool(row["localizer"]) and row["modality"] in STACKED


def _is_copy(row: Row, taken: dict[str, Row]) -> bool:
    """Say whether an image with this id, size and header came before."""
    first = taken.get(row["image"])
    return first is not None and all(_equal(first[name], row[name]) for name in _SAME)


def _equal(a: object, b: object) -> bool:
    return a == b or (a != a and b != b)  # NaN, the unknown number, equals itself here


def _copy(row: Row) -> Row:
    return _problem(
        row,
        "duplicate_file",
        "Another file carries the same image id, size and header; this one is left out.",
        "Delete one of the two files.",
    )


def _same_id(row: Row) -> Row:
    return _problem(
        row,
        "duplicate_id",
        "Another file carries the same image id but differs; this one got an id of its own.",
        "Give one of the two files a new id, or delete it.",
    )


def _one_position(row: Row) -> Row:
    return _problem(
        row,
        "duplicate_position",
        "All slices of the series lie at one position; each became an image of its own.",
        "Export repeated acquisitions as series of their own, with their positions.",
    )


def _finding(row: Row, finding: Problem) -> Row:
    detail = without_names(finding.detail, row["path"])
    return _problem(row, finding.reason, detail, finding.action)


def _problem(row: Row, reason: str, detail: str, action: str) -> Row:
    return {
        "file_id": row["file_id"],
        "image_id": row["image_id"],
        "reason": reason,
        "detail": detail,
        "action": action,
    }
