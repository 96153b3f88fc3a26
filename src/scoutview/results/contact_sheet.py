"""A sheet of small images with captions, to look at what a cohort holds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scoutview.base.errors import ConfigError, DataError, RunError
from scoutview.base.files import atomic_writer
from scoutview.results.figures import canvas, picture

Floats = NDArray[np.float32]

TILE: Final = 1.5
"""Inches of a tile's side."""
CAPTION: Final = 0.16
"""Inches of a line of caption."""
MARK: Final = "scoutview contact sheet"
"""Written into the PNG as its software: what has it may be replaced."""


def check_place(path: str | Path) -> Path:
    """Refuse a place for a sheet where anything but an earlier sheet would be lost.

    Raises:
        ConfigError: The name does not end in .png.
        RunError: Something else has that name.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ConfigError(
            f"A contact sheet is a PNG file, so its name must end in .png, got {str(path)!r}."
        )
    if path.exists() and not _is_sheet(path):
        raise RunError(
            f"{path} exists and is no contact sheet that could be replaced; choose another name."
        )
    return path


def _is_sheet(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as known:
            return known.info.get("Software") == MARK
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # a folder, no PNG, a damaged or a huge one


def contact_sheet(
    path: str | Path,
    images: Sequence[Floats],
    captions: Sequence[str],
    *,
    spacings: Sequence[tuple[float, float] | None] | None = None,
    columns: int = 6,
    title: str = "",
) -> Path:
    """Write images as one PNG, every image in its true proportions.

    Args:
        path: The file, ending in .png; an earlier sheet is replaced.
        images: Windowed images in [0, 1], (H, W) or (H, W, 3) each, rows from top to bottom.
        captions: One per image; line breaks are kept.
        spacings: Row and column spacing of each image in mm, None unknown (square pixels).
        columns: Tiles beside each other, >= 1.
        title: A line on top.

    Returns:
        The path.

    Raises:
        ConfigError: The name does not end in .png.
        RunError: Something other than an earlier sheet has that name.
        DataError: There is no image, the numbers of images, captions and spacings differ, or an
            image is not two-dimensional, is not finite or leaves [0, 1].
    """
    path = check_place(path)
    spacings = [None] * len(images) if spacings is None else spacings
    if not images or not len(images) == len(captions) == len(spacings):
        raise DataError(
            "A contact sheet needs images with one caption (and spacing) each, got"
            f" {len(images)} images, {len(captions)} captions, {len(spacings)} spacings."
        )
    for number, image in enumerate(images):
        _check(number, image)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    height = rows * (TILE + lines * CAPTION + 0.1) + (0.35 if title else 0.1)
    with canvas(columns * (TILE + 0.08) + 0.1, height) as figure:
        if title:
            figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, image, caption, spacing in zip(grid, images, captions, spacings, strict=False):
            tall, wide = _size(image, spacing)
            axes.imshow(
                image, cmap="gray", vmin=0, vmax=1, extent=(0, wide, tall, 0), aspect="equal"
            )
            axes.text(
                0.5, -0.03, caption, transform=axes.transAxes, ha="center", va="top", fontsize=7
            )
        sheet = picture(
            figure, "contact_sheet", kind="png", alt=title, caption=title, software=MARK
        )
    with atomic_writer(path) as stream:
        stream.write(sheet.data)
    return path


def _check(number: int, image: Floats) -> None:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or not image.size:
        raise DataError(f"Image {number} must be (H, W) or (H, W, 3), got {image.shape}.")
    if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
        raise DataError(
            f"Image {number} must lie in [0, 1], got {image.min():g} to {image.max():g}; apply an"
            " intensity policy first."
        )


def _size(image: Floats, spacing: tuple[float, float] | None) -> tuple[float, float]:
    """Height and width in units of the column spacing."""
    ratio = 1.0 if spacing is None else spacing[0] / spacing[1]
    return image.shape[0] * ratio, float(image.shape[1])
