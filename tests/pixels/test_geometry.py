"""Orientation and affines against nibabel and by hand."""

import nibabel
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes
from scipy.spatial.transform import Rotation

from scoutview.pixels import geometry

AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def test_direction_code__names_the_usual_planes():
    assert geometry.direction_code(AXIAL) == "LPS"
    assert geometry.direction_code(CORONAL) == "LIP"
    assert geometry.direction_code(SAGITTAL) == "PIR"[:2] + geometry.direction_code(SAGITTAL)[2]
    assert geometry.direction_code(SAGITTAL)[2] == "R"


@pytest.mark.parametrize("seed", range(30))
def test_orientation_code__equals_nibabel_for_rotated_axes(seed):
    rng = np.random.default_rng(seed)
    turn = Rotation.from_euler("xyz", rng.uniform(-30, 30, 3), degrees=True).as_matrix()
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(rng.uniform(0.3, 5, 3))
    assert geometry.orientation_code(affine) == "".join(aff2axcodes(affine))
    assert geometry.orientation_code(affine.ravel()) == geometry.orientation_code(affine)


def test_orientation_code__is_empty_without_lengths():
    assert geometry.orientation_code(np.zeros((4, 4))) == ""


def test_affine_from_dicom__follows_the_standards_equation():
    position, spacing = (-10.0, 20.0, 30.0), (5.0, 0.5, 0.25)
    affine = geometry.affine_from_dicom(position, CORONAL, spacing)
    column, row, slice_ = 3, 7, 2
    row_cosines, column_cosines = np.array(CORONAL[:3]), np.array(CORONAL[3:])
    lps = (
        np.array(position)
        + row_cosines * 0.25 * column
        + column_cosines * 0.5 * row
        + np.array([0.0, 1.0, 0.0]) * 5.0 * slice_
    )
    ras = affine @ [column, row, slice_, 1]
    np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1])
    assert geometry.spacing_from_affine(affine) == pytest.approx(spacing)


@pytest.mark.parametrize(
    ("direction", "name"), [(AXIAL, "axial"), (CORONAL, "coronal"), (SAGITTAL, "sagittal"),
                            ((1, 0, 0, 0, 2**-0.5, 2**-0.5), "oblique")]
)  # fmt: skip
def test_plane__is_named_by_its_normal(direction, name):
    assert geometry.plane(direction) == name


def test_is_direction__wants_two_unit_vectors_at_right_angles():
    assert geometry.is_direction(AXIAL)
    assert not geometry.is_direction((1, 0, 0, 1, 0, 0))
    assert not geometry.is_direction((2, 0, 0, 0, 1, 0))
    assert not geometry.is_direction((1, 0, 0))
    assert not geometry.is_direction((float("nan"), 0, 0, 0, 1, 0))


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "RPI", "PSR", "SPL", "ALS"])
def test_to_display__shows_slices_as_radiologists_do(code):
    shown = ("L", "P") if code[2] in "IS" else ("P", "I") if code[2] in "LR" else ("L", "I")
    order = nibabel.orientations.axcodes2ornt(code)
    # A volume in (k, j, i) whose value at a voxel is its place along each patient axis.
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), axis=0)  # i, j, k
    place = {}
    for axis in range(3):
        letter = code[axis]
        place[letter] = grid[axis]
        place["LRPAIS"["RLAPSI".index(letter)]] = 3 - grid[axis]
    assert len(order) == 3
    columns = geometry.to_display(place[shown[0]].T, code)
    rows = geometry.to_display(place[shown[1]].T, code)
    assert (np.diff(columns, axis=-1) == 1).all()
    assert (np.diff(rows, axis=-2) == 1).all()
