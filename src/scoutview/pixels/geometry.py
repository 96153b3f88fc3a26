"""Orientation codes and index-to-millimetre matrices.

DICOM counts millimetres to the Left, Posterior and Superior (LPS); NIfTI to the Right, Anterior and
Superior (RAS). Codes name the direction in which an index grows, for (column, row, slice), so the
usual axial CT is "LPS".
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LETTERS: Final = (("L", "R"), ("P", "A"), ("I", "S"))
"""Negative and positive direction of each RAS axis."""

Direction = tuple[float, float, float, float, float, float]


def normal(direction: Sequence[float]) -> NDArray[np.float64]:
    """Return the unit normal of a slice, (3,), in DICOM's LPS millimetres.

    Args:
        direction: ImageOrientationPatient, six cosines: of a row, then of a column.

    Source: DICOM PS3.3 C.7.6.2.1.1.
    """
    cosines = np.asarray(direction, dtype=np.float64)
    cross = np.cross(cosines[:3], cosines[3:])
    return np.asarray(cross / np.linalg.norm(cross), dtype=np.float64)


def is_direction(direction: Sequence[float]) -> bool:
    """Tell whether six numbers are two unit vectors at right angles (to 1 %)."""
    cosines = np.asarray(direction, dtype=np.float64)
    if cosines.shape != (6,) or not np.isfinite(cosines).all():
        return False
    row, column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    return bool(np.all(np.abs(lengths - 1) < 0.01) and abs(float(row @ column)) < 0.01)


def affine_from_dicom(
    position: Sequence[float],
    direction: Sequence[float],
    spacing: Sequence[float],
    step: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Build the index-to-millimetre matrix (RAS+) of a DICOM slice or stack.

    Args:
        position: ImagePositionPatient of the first slice, LPS mm.
        direction: ImageOrientationPatient.
        spacing: (z, y, x) in mm.
        step: Displacement from one slice to the next, LPS mm; along the normal if None. With gantry
            tilt it is not along the normal.

    Returns:
        (4, 4), maps (column, row, slice, 1) to RAS mm.

    Source: DICOM PS3.3 C.7.6.2.1.1, eq. C.7.6.2.1-1.
    """
    cosines = np.asarray(direction, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, 0] = cosines[:3] * spacing[2]
    matrix[:3, 1] = cosines[3:] * spacing[1]
    matrix[:3, 2] = normal(direction) * spacing[0] if step is None else np.asarray(step)
    matrix[:3, 3] = position
    matrix[:2] *= -1  # LPS to RAS
    return matrix


def spacing_from_affine(affine: Sequence[float] | NDArray[Any]) -> tuple[float, float, float]:
    """Return (z, y, x) in mm of a RAS+ matrix given as 4x4 or as 16 row-major numbers."""
    matrix = np.asarray(affine, dtype=np.float64).reshape(4, 4)
    x, y, z = (float(np.linalg.norm(matrix[:3, axis])) for axis in range(3))
    return z, y, x


def orientation_code(affine: Sequence[float] | NDArray[Any]) -> str:
    """Return three letters: where column, row and slice indices grow towards.

    Args:
        affine: RAS+ matrix as 4x4 or as 16 row-major numbers.

    Returns:
        A code such as "LPS"; "" if an axis of the matrix has no length.
    """
    matrix = np.asarray(affine, dtype=np.float64).reshape(4, 4)[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(matrix).all() or np.any(lengths == 0):
        return ""
    cosines = matrix / lengths
    best = max(permutations(range(3)), key=lambda axes: _alignment(cosines, axes))
    return "".join(_LETTERS[axis][int(cosines[axis, i] > 0)] for i, axis in enumerate(best))


def _alignment(cosines: NDArray[np.float64], axes: Sequence[int]) -> float:
    return float(sum(abs(cosines[axis, i]) for i, axis in enumerate(axes)))


def direction_code(direction: Sequence[float]) -> str:
    """Return the orientation code of a DICOM slice, its normal as the third axis."""
    return orientation_code(affine_from_dicom((0, 0, 0), direction, (1, 1, 1)))


def plane(direction: Sequence[float]) -> str:
    """Name the plane of a slice: "axial", "coronal", "sagittal", or "oblique" beyond 30 degrees."""
    cosines = np.abs(normal(direction))
    axis = int(np.argmax(cosines))
    if cosines[axis] < np.cos(np.deg2rad(30)):
        return "oblique"
    return ("sagittal", "coronal", "axial")[axis]


def to_display(values: NDArray[Any], code: str) -> NDArray[Any]:
    """Turn slices as radiologists look at them: patient's right, or front, on the left side.

    Args:
        values: (H, W) or (D, H, W), rows and columns as stored.
        code: Orientation code; "" leaves the values alone.

    Returns:
        A view with columns growing to Left or Posterior and rows to Posterior or Inferior.
    """
    if not code:
        return values
    column, row = code[0], code[1]
    if column in "SI" or (row in "LR" and column in "PA"):
        values, column, row = values.swapaxes(-1, -2), row, column
    if column in "RA":
        values = values[..., ::-1]
    if row in "AS":
        values = values[..., ::-1, :]
    return values
