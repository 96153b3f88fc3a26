"""Positives from geometry against pairs found one by one, and the loss against its equation."""

import math

import numpy as np
import pytest
import torch

from scoutview.base.randomness import VIEWS, generator
from scoutview.nn.losses.places import cell_centres, place_consistency, same_place, view_frame
from scoutview.nn.propagation import PixelPropagation
from scoutview.views.draw import draw
from scoutview.views.policy import Augment, TwoCrops

SIZE, GRID, SHAPE = 24, 4, (90, 120)
FLIPPED = Augment(flip_horizontal=0.5, flip_vertical=0.5)


def crops(count: int, augment: Augment = FLIPPED):
    """Geometry of both views of some images, (count, 2, 3) each."""
    policy = TwoCrops(size=SIZE, scale=(0.1, 0.6), first=augment)
    drawn = [draw(policy, SHAPE, generator(0, VIEWS, 0, key)) for key in range(count)]
    return [torch.tensor([d[v].affine for d in drawn], dtype=torch.float64) for v in (0, 1)]


def centre_by_hand(affine, cell):
    """Mean position in the image of the view's pixels that a cell covers."""
    side = SIZE // GRID
    points = [
        affine @ np.array([cell[0] * side + i, cell[1] * side + j, 1.0])
        for i in range(side)
        for j in range(side)
    ]
    return np.mean(points, axis=0)


@pytest.mark.parametrize("augment", [FLIPPED, Augment(rotation=60, flip_horizontal=0.5)])
def test_same_place__finds_the_pairs_that_a_slow_search_finds(augment):
    first, second = crops(12, augment)
    grid = (GRID, GRID)
    frames = [view_frame(affine, (SIZE, SIZE)) for affine in (first, second)]
    same = same_place(*frames, grid, grid, threshold=0.7)
    found = np.zeros(same.shape, dtype=bool)
    cells = [(i, j) for i in range(GRID) for j in range(GRID)]
    for image, (a, b) in enumerate(zip(first.numpy(), second.numpy(), strict=True)):
        side = SIZE / GRID
        diagonal = max(
            math.hypot(*(np.linalg.norm(m[:, k]) * side for k in (0, 1))) for m in (a, b)
        )
        for i, cell in enumerate(cells):
            for j, other in enumerate(cells):
                gap = centre_by_hand(a, cell) - centre_by_hand(b, other)
                found[image, i, j] = np.linalg.norm(gap) <= 0.7 * diagonal
    assert 0 < found.sum() < found.size
    np.testing.assert_array_equal(same.numpy(), found)


def test_same_place__of_a_mirrored_view_is_the_mirrored_cell():
    straight = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    mirrored = torch.tensor([[[1.0, 0.0, 0.0], [0.0, -1.0, SIZE - 1.0]]])
    frames = [view_frame(affine, (SIZE, SIZE)) for affine in (straight, mirrored)]
    same = same_place(*frames, (1, GRID), (1, GRID), threshold=0.1)[0]
    assert torch.equal(same, torch.eye(GRID, dtype=torch.bool).flip(1))


def test_view_frame__centres_leave_out_half_a_pixel_at_each_end():
    affine = torch.tensor([[[0.5, 0.0, 9.75], [0.0, -2.0, 57.0]]])  # rows 10..21, columns 57..10
    edges, centres = (view_frame(affine, (24, 24), span=span) for span in ("edges", "centres"))
    torch.testing.assert_close(edges.corner, torch.tensor([[9.5, 58.0]]))
    torch.testing.assert_close(centres.corner, torch.tensor([[10.0, 57.5]]))
    torch.testing.assert_close(centres.sides[0].diagonal(), torch.tensor([11.0, -47.0]))


def test_cell_centres__tile_the_view():
    affine = torch.tensor([[[2.0, 0.0, 5.5], [0.0, 2.0, 7.5]]])  # rows 5 to 13, columns 7 to 15
    centres = cell_centres(view_frame(affine, (4, 4)), (2, 2))[0]
    expected = torch.tensor([[6.5, 8.5], [6.5, 12.5], [10.5, 8.5], [10.5, 12.5]])
    torch.testing.assert_close(centres, expected)


def test_place_consistency__is_the_mean_cosine_of_pairs_and_images_without_pairs_count_zero():
    draws = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    p, t = torch.nn.functional.normalize(draws, dim=3)
    same = torch.zeros(2, 3, 3, dtype=torch.bool)
    same[0, 0, 1] = same[0, 2, 2] = True
    expected = -(float(p[0, 0] @ t[0, 1]) + float(p[0, 2] @ t[0, 2])) / 2 / 2
    assert float(place_consistency(p, t, same)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("layers", "clamp"), [(0, 0.0), (1, 0.0), (1, 0.3), (2, 0.0)])
def test_propagation__is_the_papers_equation_cell_by_cell(layers, clamp):
    torch.manual_seed(0)
    module = PixelPropagation(6, exponent=2.0, layers=layers, clamp=clamp).double().eval()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        values = module.transform(x.flatten(0, 1)).view_as(x)
        smooth = module(x)
    for image in range(2):
        for i in range(5):
            total = torch.zeros(6, dtype=torch.float64)
            for j in range(5):
                a, b = x[image, i], x[image, j]
                cosine = float(a @ b / (a.norm() * b.norm()))
                total += max(cosine, clamp) ** 2 * values[image, j]
            torch.testing.assert_close(smooth[image, i], total)
