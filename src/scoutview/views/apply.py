"""Apply drawn parameters on the CPU with OpenCV: one geometric pass, one pass of grey values.

Order: energies of the whole image, sample (crop, zoom, flip and turn at once, from the pyramid
level that antialiases), blur, brightness, contrast and shift, gamma, solarise, noise, cut-out.
Sampling keeps the image's integer type; what follows is float32 and is rounded once, at the end.

Border: a straight view repeats the edge within the outermost half pixel and follows `border` beyond
it; a turned view with border "zero" fades to black over one pixel.

Source: fused pass and its costs, own measurements; brightness and contrast as in torchvision's
`adjust_brightness` and `adjust_contrast`, without clipping in between.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from scoutview.base.errors import DataError
from scoutview.views.draw import EnergyChange, Rows, ViewParams
from scoutview.views.energy_bands import BandedImage
from scoutview.views.geometry import at_level, pyramid_level
from scoutview.views.noise import noise

Pixels = NDArray[Any]

BLUR_REACH: Final = 3.0
"""Standard deviations after which the blur is cut off; beyond lie 0.3 % of its weight."""

_DEPTHS: Final = {np.dtype(np.uint8): cv2.CV_8U, np.dtype(np.uint16): cv2.CV_16U}
_BORDERS: Final = {
    "zero": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
}
_SAMPLING: Final = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


class Pyramid:
    """An image and its halvings, each made once, when first asked for."""

    def __init__(self, image: Pixels) -> None:
        """Start from the finest level.

        Args:
            image: (H, W) or (H, W, 3), uint8 or uint16, full range standing for [0, 1].

        Raises:
            DataError: The image is of another type or shape.
        """
        if image.dtype not in _DEPTHS or not _is_plane(image):
            raise DataError(
                "Views on the CPU need an image (H, W) or (H, W, 3) of uint8 or uint16, got"
                f" {image.shape} of {image.dtype}; apply the intensity policy first, and use"
                " torch_apply for volumes."
            )
        self._levels = [image]
        self._banded: dict[tuple[object, ...], BandedImage] = {}

    def level(self, number: int) -> Pixels:
        """Return the mean over blocks of 2^number pixels."""
        while len(self._levels) <= number:
            self._levels.append(halve(self._levels[-1]))
        return self._levels[number]

    def with_energies(self, change: EnergyChange) -> "Pyramid":
        """Return the image with details of other strength; it is split into bands only once."""
        how = (change.sigmas, change.border, change.cascaded)
        if how not in self._banded:
            self._banded[how] = BandedImage(self._levels[0], *how)
        return Pyramid(self._banded[how].with_energies(change.wanted, change.residual))


def _is_plane(image: Pixels) -> bool:
    plane = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    return plane and image.size > 0


def halve(image: Pixels) -> Pixels:
    """Average blocks of 2 x 2 pixels; an odd edge is repeated, so coordinates halve exactly."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    half = ((width + 1) // 2, (height + 1) // 2)
    return cv2.resize(image, half, interpolation=cv2.INTER_AREA)


def apply(
    image: Pixels | Pyramid,
    params: ViewParams,
    out: Pixels | None = None,
    *,
    origin: Sequence[int] = (0, 0),
) -> Pixels:
    """Make one view.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16 whose full range stands for [0, 1]; or its
            pyramid, which several views share.
        params: What to do.
        out: Where to write, (C, *size) of the image's type; made when not given.
        origin: Coordinates of the image's first pixel in the stored image, if it is a part of it.

    Returns:
        The view, (C, *size), C = 1 or 3.

    Raises:
        DataError: The image cannot be used here, or `out` has another shape or type.
    """
    pyramid = image if isinstance(image, Pyramid) else Pyramid(image)
    if params.energy is not None:
        if any(origin):
            raise DataError(
                "Energies are those of a whole image, got a part that begins at"
                f" {tuple(origin)}; cut it with bounding_box."
            )
        pyramid = pyramid.with_energies(params.energy)
    whole = pyramid.level(0)
    channels = 1 if whole.ndim == 2 else 3
    if out is None:
        out = np.empty((channels, *params.size), dtype=whole.dtype)
    elif out.shape != (channels, *params.size) or out.dtype != whole.dtype:
        raise DataError(
            f"The view needs a place of shape {(channels, *params.size)} and type {whole.dtype},"
            f" got {out.shape} of {out.dtype}."
        )
    if channels == 1 and out.flags.c_contiguous:
        _sample(pyramid, params, origin, out[0])
        _change(out[0], params)
    else:  # OpenCV wants contiguous rows and the channel last
        view = np.empty(params.size + whole.shape[2:], dtype=whole.dtype)
        _sample(pyramid, params, origin, view)
        _change(view, params)
        out[...] = view if channels == 1 else np.moveaxis(view, -1, 0)
    for box in params.holes:
        fill = out.mean() if params.fill_mean else 0
        out[(slice(None), *(slice(start, stop) for start, stop in box))] = fill
    return out


def _sample(pyramid: Pyramid, params: ViewParams, origin: Sequence[int], view: Pixels) -> None:
    """Crop, zoom, flip and turn at once into the view, (H, W) or (H, W, 3)."""
    rows = params.affine
    level = pyramid_level(rows)
    if (origin[0] | origin[1]) & ((1 << level) - 1):
        raise DataError(
            f"A part of an image must begin at a multiple of {1 << level} pixels for this view, got"
            f" origin {tuple(origin)}; cut it with bounding_box."
        )
    pixels = pyramid.level(level)
    (yy, yx, y), (xy, xx, x) = at_level(rows, level)
    height, width = params.size
    # Counting from the view's own corner gives the same roundings for an image and a part of it.
    top = y + min(0.0, yy * (height - 1)) + min(0.0, yx * (width - 1))
    left = x + min(0.0, xy * (height - 1)) + min(0.0, xx * (width - 1))
    row = max(origin[0] >> level, math.floor(top) - 1)
    column = max(origin[1] >> level, math.floor(left) - 1)
    straight = yx == 0 and xy == 0
    border = "edge" if straight and params.border == "zero" else params.border
    cv2.warpAffine(
        pixels[row - (origin[0] >> level) :, column - (origin[1] >> level) :],
        np.array([[xx, xy, x - column], [yx, yy, y - row]]),  # OpenCV counts x first
        (width, height),
        dst=view,
        flags=_SAMPLING,
        borderMode=_BORDERS[border],
    )
    if straight and params.border == "zero":
        _blacken_outside(view, rows, origin, pyramid.level(0).shape)


def _blacken_outside(
    view: Pixels, rows: Rows, origin: Sequence[int], shape: tuple[int, ...]
) -> None:
    """Set rows and columns of a straight view to 0 whose centres lie outside the image."""
    for axis in (0, 1):
        step, offset, size = rows[axis][axis], rows[axis][2] - origin[axis], view.shape[axis]
        # Rounding must not cost a full image its outermost row.
        low, high = -0.5 - 1e-6 - offset, shape[axis] - 0.5 + 1e-6 - offset
        if low <= min(0.0, step * (size - 1)) and high >= max(0.0, step * (size - 1)):
            continue
        first, last = sorted((low / step, high / step))
        along = view if axis == 0 else view.swapaxes(0, 1)
        along[: max(0, math.ceil(first))] = 0
        along[max(0, math.floor(last) + 1) :] = 0


def _change(view: Pixels, params: ViewParams) -> None:
    """Change the view's grey values in place."""
    scale = params.brightness * params.contrast
    shift = 0.0
    if params.contrast != 1:
        channels = 1 if view.ndim == 2 else 3
        mean = sum(cv2.mean(view)[:channels]) / channels
        shift = params.brightness * (1 - params.contrast) * mean
    shift += params.shift * float(np.iinfo(view.dtype).max)
    changed = view
    if params.blur > 0:
        kernel = blur_kernel(params.blur, min(params.size))
        # From integers to float, OpenCV filters three times slower than from float to float.
        changed = view.astype(np.float32)
        cv2.sepFilter2D(changed, -1, kernel, kernel, dst=changed)
    if params.gamma != 1 or params.solarise is not None or params.noise > 0:
        changed, scale, shift = _bend(changed, params, scale, shift, view.dtype), 1.0, 0.0
    if scale != 1 or shift != 0 or changed is not view:
        depth = _DEPTHS[view.dtype]
        cv2.addWeighted(changed, scale, changed, 0, shift, dst=view, dtype=depth)  # saturates


def _bend(
    view: Pixels, params: ViewParams, scale: float, shift: float, dtype: np.dtype[Any]
) -> Pixels:
    """Brightness, contrast and all that is not linear, on [0, 1]; returned in the full range."""
    limit = float(np.iinfo(dtype).max)
    unit: Pixels = cv2.addWeighted(view, scale / limit, view, 0, shift / limit, dtype=cv2.CV_32F)
    np.clip(unit, 0, 1, out=unit)
    if params.gamma != 1:
        unit = cv2.pow(unit, params.gamma)
    if params.solarise is not None:
        unit = np.where(unit >= params.solarise, 1 - unit, unit)
    unit *= limit
    if params.noise > 0:
        channels = 1 if unit.ndim == 2 else unit.shape[2]
        pattern = np.moveaxis(noise((channels, *params.size), params.noise_seed), 0, -1)
        unit += pattern.reshape(unit.shape) * np.float32(params.noise * limit)
    return unit


def blur_radius(sigma: float, shortest: int) -> int:
    """Pixels on either side of the blur's middle; less than the view, which is mirrored there."""
    return min(math.ceil(BLUR_REACH * sigma), shortest - 1)


def blur_kernel(sigma: float, shortest: int) -> Pixels:
    """Sampled Gaussian with sum 1, (2 * radius + 1,) float32."""
    length = 2 * blur_radius(sigma, shortest) + 1
    kernel: Pixels = cv2.getGaussianKernel(length, sigma, cv2.CV_32F)
    return kernel.ravel()
