"""What an affine says about sampling: which pyramid level, which part of the image.

Both kernels sample bilinearly from a pyramid whose level k is the mean over blocks of 2^k pixels,
so the level alone decides how well a view is antialiased.
"""

import math
from collections.abc import Sequence
from typing import Final

from scoutview.views.draw import Rows, ViewParams

SHARPNESS: Final = 0.25
"""A level serves zooms from 2^-0.25 to 2^0.75 of its own.

Measured on radiographs against torchvision's antialiased resize, zooms 0.8 to 19: 0 leaves more
aliasing above, 0.5 and more blur below; see `benchmarks/multicrop_aug.py`.
"""


def pyramid_level(rows: Rows) -> int:
    """Choose the level for a view: the coarsest that is not visibly softer than the view.

    Args:
        rows: The affine, view to image coordinates.
    """
    columns = (row[:-1] for row in rows)
    return max(0, math.floor(math.log2(max(map(math.hypot, *columns))) + SHARPNESS))


def at_level(rows: Rows, level: int) -> Rows:
    """Express an affine in the coordinates of a pyramid level.

    Args:
        rows: The affine, view to image coordinates.
        level: Pyramid level; the edges of its blocks begin at the image's corner.
    """
    if level == 0:
        return rows
    scale = 0.5**level
    return tuple(
        (*[value * scale for value in row[:-1]], (row[-1] + 0.5) * scale - 0.5) for row in rows
    )


def reach(rows: Rows, size: Sequence[int]) -> list[tuple[float, float]]:
    """Find the lowest and highest coordinate of a view's pixel centres along every axis."""
    ends = []
    for row in rows:
        low = high = row[-1]
        for axis, length in enumerate(size):
            step = row[axis] * (length - 1)
            if step < 0:
                low += step
            else:
                high += step
        ends.append((low, high))
    return ends


def is_straight(rows: Rows) -> bool:
    """Whether a view is neither turned nor sheared."""
    return all(
        value == 0 for i, row in enumerate(rows) for j, value in enumerate(row[:-1]) if i != j
    )


def bounding_box(
    params: Sequence[ViewParams], shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the part of an image that gives the same views as the whole, bit by bit.

    The part begins on a block edge of the coarsest level that is used, and has room for the
    neighbours that bilinear sampling touches.

    Args:
        params: All views of the image.
        shape: Spatial shape of the stored image.

    Returns:
        Start (the `origin` of `apply`) and stop along every axis.
    """
    if any(p.energy is not None for p in params):  # energies are those of the whole image
        return (0,) * len(shape), tuple(shape)
    start, stop = list(shape), [0] * len(shape)
    block = 1 << max(pyramid_level(p.affine) for p in params)
    for p in params:
        if p.border == "reflect" and not _stays_inside(p, shape):
            return (0,) * len(shape), tuple(shape)
        for axis, (low, high) in enumerate(reach(p.affine, p.size)):
            start[axis] = min(start[axis], math.floor(low))
            stop[axis] = max(stop[axis], math.ceil(high) + 1)
    for axis, length in enumerate(shape):
        first = min(max(0, start[axis] - 2 * block), length - 1)
        start[axis] = first // block * block
        last = max(1, stop[axis] + 2 * block)
        stop[axis] = min(length, math.ceil(last / block) * block)
    return tuple(start), tuple(stop)


def _stays_inside(params: ViewParams, shape: Sequence[int]) -> bool:
    return all(
        low >= -0.5 and high <= n - 0.5
        for (low, high), n in zip(reach(params.affine, params.size), shape, strict=True)
    )
