"""Consistency of places: which cells of two views show the same spot, and how well they agree."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scoutview.nn.precision import full_precision

Span = Literal["edges", "centres"]
"""A crop reaches from the outer edges of its outer pixels, or from their centres."""


class Frame(NamedTuple):
    """Where a view lies in its stored image, in index coordinates of that image."""

    corner: Tensor
    """The view's first corner, (B, n)."""
    sides: Tensor
    """Column k runs along the whole of the view's axis k, (B, n, n)."""


@full_precision
def view_frame(affine: Tensor, size: Sequence[int], *, span: Span = "edges") -> Frame:
    """Find where a view lies; flips turn the sign of a side, rotations its direction.

    Args:
        affine: Maps index coordinates of the view to those of the stored image, (B, n, n + 1).
        size: Pixels of the view along every axis.
        span: "centres" leaves out half an image pixel at either end (zdaxie/PixPro).

    Returns:
        The frame in float32 or wider.
    """
    linear, offset = affine[..., :-1], affine[..., -1]  # (B, n, n), (B, n)
    lengths = torch.tensor(list(size), dtype=affine.dtype, device=affine.device)  # (n,)
    sides = linear * lengths  # (B, n, n)
    middle = offset + (linear * ((lengths - 1) / 2)).sum(dim=2)  # (B, n)
    if span == "centres":
        pixels = sides.norm(dim=1, keepdim=True)  # (B, 1, n)
        sides = sides * ((pixels - 1).clamp_min(0) / pixels)
    return Frame(middle - sides.sum(dim=2) / 2, sides)


def cell_centres(frame: Frame, grid: Sequence[int]) -> Tensor:
    """Place the cells of a feature map.

    Args:
        frame: Of the view, B images.
        grid: Cells of the map along every axis, P in all.

    Returns:
        Centres in index coordinates of the stored images, row by row, (B, P, n).
    """
    axes = [
        (torch.arange(cells, dtype=frame.corner.dtype, device=frame.corner.device) + 0.5) / cells
        for cells in grid
    ]
    shares = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)  # (P, n)
    return frame.corner[:, None] + shares @ frame.sides.transpose(1, 2)


def same_place(
    frame0: Frame, frame1: Frame, grid0: Sequence[int], grid1: Sequence[int], *, threshold: float
) -> Tensor:
    """Tell which cells of two views of the same images lie together.

    Args:
        frame0: Where the first views lie.
        frame1: Where the second views lie.
        grid0: Cells of the first map along every axis, P in all.
        grid1: Cells of the second map, Q in all.
        threshold: Largest distance of centres, in diagonals of the larger cell.

    Returns:
        True for a pair, (B, P, Q).

    Source: Xie et al., 2021, arXiv:2011.10043, eq. 1.
    """
    distance = torch.cdist(
        cell_centres(frame0, grid0),
        cell_centres(frame1, grid1),
        compute_mode="donot_use_mm_for_euclid_dist",  # products would lose the small distances
    )
    larger = torch.maximum(_diagonal(frame0, grid0), _diagonal(frame1, grid1))  # (B,)
    return distance <= threshold * larger[:, None, None]


def _diagonal(frame: Frame, grid: Sequence[int]) -> Tensor:
    """Diagonal of a cell, (B,)."""
    cells = torch.tensor(list(grid), dtype=frame.sides.dtype, device=frame.sides.device)
    return (frame.sides / cells).square().sum(dim=(1, 2)).sqrt()


@full_precision
def place_consistency(prediction: Tensor, target: Tensor, same: Tensor) -> Tensor:
    """Negative mean cosine of the cells that show the same place; one direction.

    Args:
        prediction: Unit vectors, (B, P, D).
        target: Unit vectors, (B, Q, D), detached.
        same: True for a pair, (B, P, Q).

    Returns:
        Mean over the images, scalar in [-1, 1]; an image without a pair counts 0.

    Source: Xie et al., 2021, arXiv:2011.10043, eq. 5; zdaxie/PixPro (1e-6 beside the count).
    """
    cosines = prediction @ target.transpose(1, 2)  # (B, P, Q)
    pairs = same.sum(dim=(1, 2)).to(cosines.dtype)  # (B,)
    return -((cosines * same).sum(dim=(1, 2)) / (pairs + 1e-6)).mean()
