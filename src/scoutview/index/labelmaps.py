"""Labelmap files: matched to images by file stem, checked for size."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from scoutview.base.errors import JoinError
from scoutview.index.config import LabelmapFolder
from scoutview.index.join import Keys, bare_stem
from scoutview.index.privacy import without_names
from scoutview.index.records import READ_FAILURES, named_right, record
from scoutview.index.schema import PRIVATE
from scoutview.index.walk import SeenFile, walk
from scoutview.pixels.failures import pass_on
from scoutview.pixels.headers import Found, Header, Locator, Problem
from scoutview.pixels.probe import probe

_WHAT = "labelmaps"


@dataclass
class Labelmaps:
    """Labelmaps that were found."""

    private: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the private table with status "labelmap"."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    matched: int = 0
    """Files that are named like an image."""
    unmatched: int = 0
    """Files with an image in them that are not."""


def join_labelmaps(
    source: LabelmapFolder, images: pd.DataFrame, keys: Keys, key: bytes
) -> Labelmaps:
    """Match the files of a folder to images.

    Args:
        source: The folder.
        images: Index rows with `image_id`, `height`, `width`, `n_slices`.
        keys: The original ids.
        key: The cohort's secret key.

    Raises:
        JoinError: No file of the folder has an image, or a stem stands for several.
    """
    files = list(walk([source.folder]))
    stems = pd.Series([_image_stem(file, source.suffix) for file in files], dtype=str)
    table = keys.table("stem").rename(columns={"key": "stem"})
    pairs = pd.DataFrame({"stem": stems, "file": range(len(files))}).merge(table, on="stem")
    if pairs.empty:
        shown = ", ".join(keys.examples("stem"))
        raise JoinError(
            "No labelmap is named like an image; files must have equal names before the ending"
            f" (suffix is {source.suffix!r}). Images are named as {shown}."
        )
    if pairs["file"].duplicated().any() or pairs["image_id"].duplicated().any():
        raise JoinError(
            "A labelmap's name stands for several images, or several labelmaps for one image; give"
            " each image a name of its own and each folder of labelmaps one file per image."
        )
    sizes = images[["n_slices", "height", "width"]].to_numpy(dtype=int).tolist()
    shapes = dict(zip(images["image_id"], map(tuple, sizes), strict=True))
    out = Labelmaps(matched=len(pairs))
    for image_id, number in zip(pairs["image_id"], pairs["file"], strict=True):
        _check(out, files[number], image_id, shapes[image_id], key)
    for number in sorted(set(range(len(files))) - set(pairs["file"])):
        _unmatched(out, files[number], key)
    return out


def _image_stem(file: SeenFile, suffix: str) -> str:
    stem = bare_stem(file.name)
    return stem.removesuffix(suffix) if stem.endswith(suffix) else ""


def _check(
    out: Labelmaps, file: SeenFile, image_id: str, shape: tuple[int, ...], key: bytes
) -> None:
    for found in _probe(file):
        row = _row(found, file, key) | {"image_id": image_id, "order": 0}
        if isinstance(found, Header):
            has = (1, *found.shape) if len(found.shape) == 2 else found.shape
            if has == shape and found.channels == 1:
                out.private.append(row | {"status": "labelmap", "signature": 0})
                return
            said = f"{'x'.join(map(str, found.shape))} with {found.channels} channels"
            out.problems.append(
                _problem(
                    row,
                    "labelmap_size",
                    f"The labelmap has {said}, its image {'x'.join(map(str, shape))}.",
                    "Export the labelmap on the image's own grid, with one channel.",
                )
            )
            return
        if isinstance(found, Problem):
            detail = without_names(found.detail, file.path)
            out.problems.append(_problem(row, found.reason, detail, found.action))


def _row(found: Found, file: SeenFile, key: bytes) -> dict[str, Any]:
    return dict(zip(PRIVATE.names, record(found, file, key), strict=True))


def _probe(file: SeenFile) -> Iterator[Found]:
    try:
        yield from named_right(probe(file.path))
    except READ_FAILURES as error:
        pass_on(error)
        yield Problem(
            Locator(file.path),
            "unreadable",
            f"Reading the labelmap failed with {type(error).__name__}.",
            "Copy the file again from its source.",
        )


def _unmatched(out: Labelmaps, file: SeenFile, key: bytes) -> None:
    for found in _probe(file):
        if isinstance(found, Header):
            row = _row(found, file, key)
            out.unmatched += 1
            out.problems.append(
                _problem(
                    row,
                    "labelmap_unmatched",
                    "The labelmap has no image of the same name in the cohort.",
                    "Add the image, or remove the labelmap.",
                )
            )
            return


def _problem(row: dict[str, Any], reason: str, detail: str, action: str) -> dict[str, Any]:
    return {
        "file_id": row["file_id"],
        "image_id": row["image_id"],
        "reason": reason,
        "detail": detail,
        "action": action,
    }
