"""Bounding boxes: CSV, COCO, YOLO and Pascal VOC become one table of corners in pixels.

Coordinates are continuous: pixel i covers [i, i + 1); a box around the first pixel is (0, 0, 1, 1).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from scoutview.base.errors import JoinError, masked
from scoutview.index.config import BoxSource
from scoutview.index.join import (
    Keys,
    Match,
    best_column,
    match_table,
    require_column,
    unmatched_problem,
)
from scoutview.index.schema import BOXES
from scoutview.index.tables import read_table
from scoutview.pixels.failures import pass_on

_WHAT: Final = "box table"
_CORNERS: Final = ["y0", "x0", "y1", "x1"]
_TOLERANCE: Final = 0.01
"""Share of the image's size that a rounded corner may lie outside before it is reported."""


def join_boxes(
    source: BoxSource, images: pd.DataFrame, keys: Keys
) -> tuple[pd.DataFrame, list[dict[str, Any]], Match]:
    """Read boxes and match them to the images.

    Args:
        source: Where they are and how they are written.
        images: Index rows with `image_id`, `file_id`, `height`, `width`.
        keys: The original ids.

    Returns:
        The table of boxes, clipped to their images; problems: boxes outside, empty or without an
        image, files that cannot be read, and images whose size is not what the file says; how the
        boxes matched.

    Raises:
        JoinError: No id matches, or the file cannot be read.
    """
    raw, unread = _read(source, keys)
    raw["score"] = raw["score"].astype(np.float64) if "score" in raw else np.nan
    for name in ("said_height", "said_width"):
        raw[name] = raw[name].astype(np.float64) if name in raw else np.nan
    match = match_table(raw, keys, "id", _WHAT)
    boxes = raw.iloc[match.pairs["row"]].reset_index(drop=True)
    boxes["image_id"] = match.pairs["image_id"].to_numpy()
    sizes = images.set_index("image_id")[["height", "width", "file_id"]]
    boxes = boxes.join(sizes, on="image_id")
    if source.format == "yolo":
        boxes[["y0", "y1"]] = boxes[["y0", "y1"]].mul(boxes["height"], axis=0)
        boxes[["x0", "x1"]] = boxes[["x0", "x1"]].mul(boxes["width"], axis=0)
    good, problems = _checked(boxes)
    problems += _unreadable_files(unread, sizes, keys)
    return good, problems + unmatched_problem(match, _WHAT), match


def _read(source: BoxSource, keys: Keys) -> tuple[pd.DataFrame, list[str]]:
    """Read the boxes, and the stems of the files of a folder that the system does not hand out."""
    if source.format == "csv":
        return _read_csv(source, keys), []
    if source.format == "coco":
        return _read_coco(source), []
    unread: list[str] = []
    rows = _READERS[source.format](source, unread)
    return _frame(rows), unread


def _unreadable_files(
    stems: Sequence[str], sizes: pd.DataFrame, keys: Keys
) -> Iterator[dict[str, Any]]:
    """Give a line to each file that could not be read, under the image that has its name."""
    pairs = keys.table("stem").set_index("key")["image_id"]
    for stem in stems:
        images = sorted(set(pairs[[stem]])) if stem in pairs.index else [""]
        for image_id in images:
            yield {
                "file_id": str(sizes["file_id"].get(image_id, "")),
                "image_id": image_id,
                "reason": "box_unreadable",
                "detail": "A file of boxes could not be read, as a link that leads nowhere.",
                "action": "Put the file of boxes back, or remove it; its boxes are left out.",
            }


def _checked(boxes: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    height, width = boxes["height"], boxes["width"]
    said = boxes[["said_height", "said_width"]].to_numpy()
    has = boxes[["height", "width"]].to_numpy()
    wrong_size = ~np.isnan(said).any(axis=1) & (said != has).any(axis=1)
    clipped = boxes.copy()
    for corner in _CORNERS:
        clipped[corner] = boxes[corner].clip(0, height if corner[0] == "y" else width)
    moved = (clipped[_CORNERS] - boxes[_CORNERS]).abs()
    outside = (moved[["y0", "y1"]].max(axis=1) > _TOLERANCE * height) | (
        moved[["x0", "x1"]].max(axis=1) > _TOLERANCE * width
    )
    # A comparison with NaN is false, so a box without a number is empty as well.
    full = (clipped["y1"] > clipped["y0"]) & (clipped["x1"] > clipped["x0"])
    problems = [
        *_problems(boxes[wrong_size], "box_image_size", _SIZE),
        *_problems(boxes[outside & full & ~wrong_size], "box_outside", _OUTSIDE),
        *_problems(boxes[~full & ~wrong_size], "box_empty", _EMPTY),
    ]
    good = clipped[full & ~wrong_size].sort_values(
        ["image_id", "label", *_CORNERS], ignore_index=True
    )
    return good[BOXES.names], problems


_SIZE: Final = (
    "The size that the box file gives for the image is not the image's.",
    "Export the boxes for this image again; they are left out.",
)
_OUTSIDE: Final = (
    "A box reaches outside the image; it was cut at the border.",
    "Check that boxes and image belong together.",
)
_EMPTY: Final = (
    "A box has no area inside the image; it is left out.",
    "Check the order of its corners and that it is given in pixels.",
)


def _problems(boxes: pd.DataFrame, reason: str, text: tuple[str, str]) -> Iterator[dict[str, Any]]:
    for row in boxes.drop_duplicates("image_id").itertuples():
        yield {
            "file_id": row.file_id,
            "image_id": row.image_id,
            "reason": reason,
            "detail": text[0],
            "action": text[1],
        }


def _read_csv(source: BoxSource, keys: Keys) -> pd.DataFrame:
    frame = read_table(source.path, _WHAT, keys)
    for name in (*source.corners, source.label_column):
        require_column(frame, name, _WHAT)
    ids = source.id_column or best_column(frame, keys, _WHAT)
    require_column(frame, ids, _WHAT)
    out = pd.DataFrame({"id": frame[ids], "label": frame[source.label_column]})
    for ours, theirs in zip(_CORNERS, source.corners, strict=True):
        out[ours] = _numbers(frame[theirs], theirs)
    if "score" in frame:
        out["score"] = _numbers(frame["score"], "score")
    # Rows without corners say that an image has no box, as in VinDr-CXR and RSNA.
    return out[out[_CORNERS].notna().any(axis=1)].reset_index(drop=True)


def _numbers(values: pd.Series, column: str) -> pd.Series:
    numbers = pd.to_numeric(values.str.strip(), errors="coerce")
    strange = values[numbers.isna() & ~values.str.strip().str.lower().isin(["", "nan"])]
    if len(strange):
        raise JoinError(
            f"Column {column!r} of the {_WHAT} must hold numbers, got {len(strange)} other values,"
            f" as {masked(strange.iloc[0])}."
        )
    return numbers


def _read_coco(source: BoxSource) -> pd.DataFrame:
    try:
        content = json.loads(source.path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        rows = [_coco_row(box, images[box["image_id"]], names) for box in content["annotations"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unreadable("COCO file with images, categories and annotations", error) from error
    return _frame(rows)


def _coco_row(box: dict[str, Any], image: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    x, y, width, height = map(float, box["bbox"])
    return {
        "id": str(image["file_name"]),
        "label": names[box["category_id"]],
        "y0": y,
        "x0": x,
        "y1": y + height,
        "x1": x + width,
        "score": float(box.get("score", np.nan)),
        "said_height": image.get("height", np.nan),
        "said_width": image.get("width", np.nan),
    }


def _texts(folder: Path, pattern: str, unread: list[str]) -> Iterator[tuple[Path, bytes]]:
    """Yield the files of a folder; those that the system does not hand out go to `unread`."""
    for file in sorted(folder.rglob(pattern)):
        if file.name == "classes.txt":
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            pass_on(error)
            unread.append(file.stem)
            continue
        yield file, content


def _read_yolo(source: BoxSource, unread: list[str]) -> list[dict[str, Any]]:
    classes = source.classes or _yolo_classes(source.path)
    rows = []
    for file, content in _texts(source.path, "*.txt", unread):
        try:
            for line in content.decode().splitlines():
                if line.strip():
                    rows.append(_yolo_row(file.stem, line.split(), classes))
        except (ValueError, LookupError) as error:
            raise _unreadable("YOLO files with: class xc yc w h, and all class names", error) from (
                error
            )
    return rows


def _yolo_classes(folder: Path) -> tuple[str, ...]:
    for place in (folder / "classes.txt", folder.parent / "classes.txt"):
        if place.is_file():
            return tuple(place.read_text(encoding="utf-8").split("\n"))
    raise JoinError("YOLO boxes need the names of their classes: give classes, or a classes.txt.")


def _yolo_row(stem: str, words: list[str], classes: tuple[str, ...]) -> dict[str, Any]:
    number, (xc, yc, width, height) = int(words[0]), map(float, words[1:5])
    if number < 0:
        raise ValueError("class numbers start at 0")
    return {
        "id": stem,
        "label": classes[number].strip(),
        "y0": yc - height / 2,
        "x0": xc - width / 2,
        "y1": yc + height / 2,
        "x1": xc + width / 2,
        "score": float(words[5]) if len(words) > 5 else np.nan,
    }


def _read_voc(source: BoxSource, unread: list[str]) -> list[dict[str, Any]]:
    rows = []
    for file, content in _texts(source.path, "*.xml", unread):
        try:
            text = content.decode()
            if "<!DOCTYPE" in text or "<!ENTITY" in text:
                raise ValueError("entities are not part of the format")
            rows += _voc_rows(file.stem, ElementTree.fromstring(text), source.one_based)
        except (ValueError, TypeError, ElementTree.ParseError) as error:
            raise _unreadable("Pascal VOC files", error) from error
    return rows


def _voc_rows(stem: str, root: ElementTree.Element, one_based: bool) -> list[dict[str, Any]]:
    first = 1.0 if one_based else 0.0  # the first pixel is 1 and the last one belongs to the box
    size = root.find("size")
    return [
        {
            "id": stem,
            "label": _text(box, "name"),
            "y0": float(_text(box, "bndbox/ymin")) - first,
            "x0": float(_text(box, "bndbox/xmin")) - first,
            "y1": float(_text(box, "bndbox/ymax")),
            "x1": float(_text(box, "bndbox/xmax")),
            "said_height": np.nan if size is None else float(_text(size, "height")),
            "said_width": np.nan if size is None else float(_text(size, "width")),
        }
        for box in root.iter("object")
    ]


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{path} is missing")
    return text.strip()


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    if not rows:
        raise JoinError("The box source holds no boxes; check its path and format.")
    return pd.DataFrame(rows)


def _unreadable(expected: str, error: Exception) -> JoinError:
    return JoinError(f"Boxes must be {expected}; reading failed with {type(error).__name__}.")


_READERS: Final = {
    "yolo": _read_yolo,
    "voc": _read_voc,
}
