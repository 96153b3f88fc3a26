"""Draw the parameters of every view of an image, before a pixel is touched.

All numbers of an image come from one generator in one call: a table of uniform numbers with one row
per view and one fixed column (slot) per parameter. A parameter that is switched off leaves its slot
unused, so switching it on changes no other parameter, and adding views changes no earlier view.

Geometry: index coordinates have pixel centres at integers and follow the order of the array's axes,
so an image of length n covers [-0.5, n - 0.5]. The affine of a view maps its index coordinates to
those of the stored image.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import le, mul
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from scoutview.base.errors import ConfigError, DataError
from scoutview.base.randomness import VIEWS, generator
from scoutview.views.policy import (
    Augment,
    BandBorder,
    BandResidual,
    Border,
    CutOut,
    EnergyBands,
    Intensity,
    Range,
    ViewPolicy,
    ViewSpec,
)

AREA: Final = 0
ASPECT: Final = 1  # 2 slots: axes 1 and 2 against axis 0
POSITION: Final = 3  # 3 slots, one per axis
FLIP: Final = 6  # 3 slots, one per axis counted from the last
TURN_WHETHER: Final = 9
TURN: Final = 10  # 3 slots: planes (last two axes), (first, last), (first, second last)
JITTER_WHETHER: Final = 13
BRIGHTNESS: Final = 14
CONTRAST: Final = 15
GAMMA_WHETHER: Final = 16
GAMMA: Final = 17
BLUR_WHETHER: Final = 18
BLUR: Final = 19
NOISE_WHETHER: Final = 20
NOISE: Final = 21
NOISE_SEED: Final = 22
SOLARISE_WHETHER: Final = 23
CUT_WHETHER: Final = 24
CUT_COUNT: Final = 25
CUT_BOX: Final = 26  # 4 boxes of 6 slots: extent and position along at most 3 axes
ORDER: Final = 50  # the patches of a crop come in the order of these numbers
PLACE: Final = 51  # 3 slots, one per axis: where a patch lies in its cell
SHIFT: Final = 54
ENERGY_WHETHER: Final = 55
ENERGY: Final = 56  # 8 slots, one per band
SLOTS: Final = 64
"""Slots per view; all are taken."""

_MAX_NDIM: Final = 3
_NORMAL: Final = NormalDist()
_BELOW: Final = _NORMAL.cdf(-1.0)

Matrix = list[list[float]]
Rows = tuple[tuple[float, ...], ...]
"""An affine as ndim rows of ndim + 1 numbers: plain numbers, because arrays this small are slow."""
Box = tuple[tuple[int, int], ...]
"""Start and stop along every axis, in pixels of the view."""


class EnergyChange(NamedTuple):
    """How strong the details of every size shall be; see `views.energy_bands`."""

    wanted: tuple[float, ...]
    """Energy of every band on [0, 1] values, finest first."""
    sigmas: tuple[float, ...]
    border: BandBorder = "reflect"
    cascaded: bool = True
    residual: BandResidual = "around_mean"


class ViewParams(NamedTuple):
    """All that makes a view of an image: pure numbers, no randomness left."""

    affine: Rows
    """ndim rows of ndim + 1: index coordinates of the view to index coordinates of the image."""
    size: tuple[int, ...]
    """Pixels of the view along every axis."""
    border: Border = "zero"
    brightness: float = 1.0
    contrast: float = 1.0
    gamma: float = 1.0
    blur: float = 0.0
    """Standard deviation in pixels of the view; 0 is no blur."""
    noise: float = 0.0
    """Standard deviation on [0, 1] values; 0 is no noise."""
    noise_seed: int = 0
    """Which noise pattern, in [0, 2^32)."""
    solarise: float | None = None
    """Values at or above this threshold are inverted."""
    holes: tuple[Box, ...] = ()
    fill_mean: bool = True
    """Paint holes with the view's mean instead of black."""
    shift: float = 0.0
    """Added to [0, 1] values, after brightness and contrast."""
    energy: EnergyChange | None = None
    """Change of the whole image before the view is taken from it."""


def draw(
    policy: ViewPolicy,
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    spacing: Sequence[float] | None = None,
) -> list[ViewParams]:
    """Draw the parameters of all views of one image.

    Args:
        policy: Which views to make.
        shape: Spatial shape of the image, (H, W) or (D, H, W).
        rng: The image's generator, fresh from `base.randomness.generator`.
        spacing: Pixel distances in mm along the same axes; turns are right only with it where
            pixels are not square.

    Returns:
        One entry per view, in the order of the policy.

    Raises:
        DataError: The image is empty or has neither 2 nor 3 axes.
    """
    return draw_specs(policy.specs(len(shape)), shape, rng, spacing=spacing)


def draw_specs(
    specs: Sequence[ViewSpec],
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    spacing: Sequence[float] | None = None,
) -> list[ViewParams]:
    """Draw as `draw` does, from views that are resolved already."""
    if len(shape) not in (2, _MAX_NDIM) or min(shape) < 1:
        raise DataError(
            f"An image needs 2 or 3 spatial axes of at least one pixel, got shape {tuple(shape)};"
            " check what the reader returned."
        )
    many = any(_needs_many(spec.augment) for spec in specs)
    cut = sum(spec.cut is not None for spec in specs)  # patches, which come last
    used = SLOTS if many or cut else CUT_BOX  # every slot is drawn, unused ones are not unpacked
    table: list[list[float]] = rng.random((len(specs), SLOTS))[:, :used].tolist()
    whole = len(specs) - cut
    views = [
        _draw_one(spec, shape, uniform, spacing)
        for spec, uniform in zip(specs[:whole], table[:whole], strict=True)
    ]
    if cut:
        views += _draw_patches(specs[whole:], shape, table[whole:], spacing)
    return views


def _needs_many(augment: Augment) -> bool:
    """Whether a treatment uses numbers behind those that nearly every view needs."""
    return augment.cut_out is not None or augment.energy is not None or augment.intensity.shift > 0


def replay(
    policy: ViewPolicy,
    shape: Sequence[int],
    *,
    seed: int,
    epoch: int,
    image_key: int,
    view: int,
    spacing: Sequence[float] | None = None,
) -> ViewParams:
    """Draw again the view that training saw, from the numbers of a log line.

    Args:
        policy: The policy of the run.
        shape: Spatial shape of the stored image.
        seed: The run's seed.
        epoch: Epoch, from 0.
        image_key: The image's key, as in the row table.
        view: Which view of the policy, from 0.
        spacing: As given to `draw`.
    """
    rng = generator(seed, VIEWS, epoch, image_key)
    return draw(policy, shape, rng, spacing=spacing)[view]


def _draw_one(
    spec: ViewSpec, shape: Sequence[int], uniform: list[float], spacing: Sequence[float] | None
) -> ViewParams:
    if spec.fit is not None:
        middle = [n / 2 for n in shape]
        return ViewParams(_affine(None, _fitted_zoom(spec, shape), middle, spec.size), spec.size)
    return _treated(spec, _crop(spec, shape, uniform, spacing), uniform)


def _crop(
    spec: ViewSpec, shape: Sequence[int], uniform: list[float], spacing: Sequence[float] | None
) -> Rows:
    zoom = _crop_zoom(spec, shape, uniform)
    turn = _turn(spec.augment, len(shape), uniform, spacing)
    centre = _centre(zoom, turn, spec.size, shape, uniform)
    return _affine(turn, _flipped(spec.augment, zoom, uniform), centre, spec.size)


def _draw_patches(
    specs: Sequence[ViewSpec],
    shape: Sequence[int],
    table: list[list[float]],
    spacing: Sequence[float] | None,
) -> list[ViewParams]:
    """Draw one crop with the first row of the table, then a patch of one of its cells per row."""
    cut = specs[0].cut
    assert cut is not None
    size = tuple(cut.grid * length for length in cut.cell)
    crop = _crop(replace(specs[0], size=size), shape, table[0], spacing)
    cells = sorted(range(len(specs)), key=lambda number: table[number][ORDER])
    patches = []
    for spec, uniform, cell in zip(specs, table, cells, strict=True):
        start, number = [0.0] * len(size), cell
        for axis in reversed(range(len(size))):  # cells are counted along the last axis first
            number, place = divmod(number, cut.grid)
            free = cut.cell[axis] - spec.size[axis]
            start[axis] = place * cut.cell[axis] + free * uniform[PLACE + axis]
        affine = tuple((*row[:-1], row[-1] + sum(map(mul, row, start))) for row in crop)
        patches.append(_treated(spec, affine, uniform))
    return patches


def _treated(spec: ViewSpec, affine: Rows, uniform: list[float]) -> ViewParams:
    augment, intensity = spec.augment, spec.augment.intensity
    brightness, contrast, shift = _jitter(intensity, uniform)
    solarised = uniform[SOLARISE_WHETHER] < intensity.solarise_probability
    return ViewParams(
        affine,
        spec.size,
        augment.border,
        brightness,
        contrast,
        _gamma(intensity, uniform),
        _when(intensity.blur_probability, intensity.blur_sigma, uniform, BLUR_WHETHER, BLUR),
        _when(intensity.noise_probability, intensity.noise_sigma, uniform, NOISE_WHETHER, NOISE),
        int(uniform[NOISE_SEED] * 2**32),
        intensity.solarise_threshold if solarised else None,
        _holes(augment.cut_out, spec.size, uniform),
        augment.cut_out is None or augment.cut_out.fill == "mean",
        shift,
        None if augment.energy is None else _energy(augment.energy, uniform),
    )


def _between(limits: Range, uniform: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * uniform


def _when(
    probability: float, limits: Range, uniform: list[float], whether: int, value: int
) -> float:
    return _between(limits, uniform[value]) if uniform[whether] < probability else 0.0


def _crop_zoom(spec: ViewSpec, shape: Sequence[int], uniform: list[float]) -> list[float]:
    """Image pixels per view pixel along every axis.

    Area is uniform in `scale`, the logarithm of the aspect in `ratio`. torchvision draws again when
    a crop does not fit, which thins out large crops; here the aspect gives way, so that areas stay
    uniform, and only an image of other proportions than the view makes a crop smaller.
    """
    ndim, size = len(shape), spec.size
    if spec.rescale is not None:
        room = min(n / v for n, v in zip(shape, size, strict=True))
        # shrunk further, the image would be smaller than the view and be shown as a whole
        least = min(max(spec.rescale[0], 1 / room), spec.rescale[1])
        return [min(1 / _between((least, spec.rescale[1]), uniform[AREA]), room)] * ndim
    volume = _between(spec.scale, uniform[AREA]) * math.prod(shape)  # in image pixels
    low, high = spec.log_ratio
    bends = [0.0, *[low + (high - low) * u for u in uniform[ASPECT : ASPECT + ndim - 1]]]
    middle = sum(bends) / ndim
    zoom = (volume / math.prod(size)) ** (1 / ndim)
    zooms = [zoom * math.exp(bend - middle) for bend in bends]
    extent = list(map(mul, zooms, size))
    if all(map(le, extent, shape)):  # nearly always
        return zooms
    _fit_inside(extent, shape, volume)
    zooms = [min(e, n) / v for e, n, v in zip(extent, shape, size, strict=True)]
    limit = min(zooms) * max(spec.ratio[1], 1 / spec.ratio[0], 1.0)
    return [min(z, limit) for z in zooms]


def _fit_inside(extent: list[float], shape: Sequence[int], volume: float) -> None:
    """Shorten what is longer than the image and lengthen the rest to keep the volume."""
    for _ in range(len(shape) - 1):
        fixed = [e >= n for e, n in zip(extent, shape, strict=True)]
        if not any(fixed) or all(fixed):
            return
        length = math.prod(n for n, f in zip(shape, fixed, strict=True) if f)
        free = math.prod(e for e, f in zip(extent, fixed, strict=True) if not f)
        grow = (volume / length / free) ** (1 / fixed.count(False))
        for axis, is_fixed in enumerate(fixed):
            extent[axis] = float(shape[axis]) if is_fixed else extent[axis] * grow


def _fitted_zoom(spec: ViewSpec, shape: Sequence[int]) -> list[float]:
    zooms = [n / v * spec.fraction for n, v in zip(shape, spec.size, strict=True)]
    if spec.fit == "stretch":
        return zooms
    return [max(zooms) if spec.fit == "pad" else min(zooms)] * len(shape)


def _turn(
    augment: Augment, ndim: int, uniform: list[float], spacing: Sequence[float] | None
) -> Matrix | None:
    """Rotation in image pixels, or None where nothing turns."""
    if uniform[TURN_WHETHER] >= augment.rotation_probability:
        return None
    if augment.rotation == 0 and (ndim == 2 or augment.rotation_through == 0):
        return None
    planes = [(ndim - 2, ndim - 1, augment.rotation)]
    if ndim == _MAX_NDIM:
        planes += [(0, 2, augment.rotation_through), (0, 1, augment.rotation_through)]
    total: Matrix | None = None
    for number, (a, b, limit) in enumerate(planes):
        if limit > 0:
            angle = math.radians(_between((-limit, limit), uniform[TURN + number]))
            step = _plane_turn(ndim, a, b, angle)
            total = step if total is None else _product(total, step)
    if total is None or spacing is None:
        return total
    return [
        [value * spacing[j] / spacing[i] for j, value in enumerate(row)]
        for i, row in enumerate(total)
    ]


def _plane_turn(ndim: int, a: int, b: int, angle: float) -> Matrix:
    turn = [[float(i == j) for j in range(ndim)] for i in range(ndim)]
    turn[a][a] = turn[b][b] = math.cos(angle)
    turn[b][a] = math.sin(angle)
    turn[a][b] = -turn[b][a]
    return turn


def _product(left: Matrix, right: Matrix) -> Matrix:
    columns = list(zip(*right, strict=True))
    return [
        [sum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in left
    ]


def _centre(
    zoom: list[float],
    turn: Matrix | None,
    size: tuple[int, ...],
    shape: Sequence[int],
    uniform: list[float],
) -> list[float]:
    """Centre of the crop, uniform where the turned crop stays inside, else the image's centre."""
    extent = list(map(mul, zoom, size))
    if turn is not None:  # the box around the turned crop
        extent = [sum(map(mul, map(abs, row), extent)) for row in turn]
    centre = []
    for axis, length in enumerate(shape):
        free = length - extent[axis]
        centre.append(
            extent[axis] / 2 + free * uniform[POSITION + axis] if free > 0 else length / 2
        )
    return centre


def _flipped(augment: Augment, zoom: list[float], uniform: list[float]) -> list[float]:
    """Turn the sign of the axes that are flipped."""
    chances = (augment.flip_horizontal, augment.flip_vertical, augment.flip_depth)
    last = len(zoom) - 1
    return [
        -z if uniform[FLIP + last - axis] < chances[last - axis] else z
        for axis, z in enumerate(zoom)
    ]


def _affine(
    turn: Matrix | None, zoom: list[float], centre: list[float], size: tuple[int, ...]
) -> Rows:
    """Zoom, then turn, then move the middle of the view to `centre`, counted from the corner."""
    rows = []
    for i, middle in enumerate(centre):
        if turn is None:
            row = [0.0] * len(size)
            row[i] = zoom[i]
        else:
            row = list(map(mul, turn[i], zoom))
        offset = middle - 0.5
        for axis, length in enumerate(size):
            offset -= row[axis] * (length - 1) / 2
        rows.append((*row, offset))
    return tuple(rows)


def _jitter(intensity: Intensity, uniform: list[float]) -> tuple[float, float, float]:
    if uniform[JITTER_WHETHER] >= intensity.jitter_probability:
        return 1.0, 1.0, 0.0
    b, c, s = intensity.brightness, intensity.contrast, intensity.shift
    return (
        _between((1 - b, 1 + b), uniform[BRIGHTNESS]) if b else 1.0,
        _between((1 - c, 1 + c), uniform[CONTRAST]) if c else 1.0,
        _between((-s, s), uniform[SHIFT]) if s else 0.0,
    )


def _energy(bands: EnergyBands, uniform: list[float]) -> EnergyChange | None:
    if uniform[ENERGY_WHETHER] >= bands.probability:
        return None
    if bands.mean is None or bands.std is None:
        raise ConfigError(
            "EnergyBands needs the reference energies, mean and std; measure them with"
            " views.energy_bands.fit_policy, as pretrain does."
        )
    wanted = []
    for number, (mean, std) in enumerate(zip(bands.mean, bands.std, strict=True)):
        share = uniform[ENERGY + number]
        if bands.distribution == "uniform":
            deviation = 2 * share - 1
        else:  # a standard normal number, given that it lies in [-1, 1]
            deviation = _NORMAL.inv_cdf(_BELOW + (1 - 2 * _BELOW) * share)
        wanted.append(max(0.0, mean + deviation * std))
    return EnergyChange(tuple(wanted), bands.sigmas, bands.border, bands.cascaded, bands.residual)


def _gamma(intensity: Intensity, uniform: list[float]) -> float:
    if uniform[GAMMA_WHETHER] >= intensity.gamma_probability:
        return 1.0
    low, high = intensity.gamma
    if intensity.gamma_draw == "value":
        return _between((low, high), uniform[GAMMA])
    return math.exp(_between((math.log(low), math.log(high)), uniform[GAMMA]))


def _holes(cut_out: CutOut | None, size: tuple[int, ...], uniform: list[float]) -> tuple[Box, ...]:
    if cut_out is None or uniform[CUT_WHETHER] >= cut_out.probability:
        return ()
    fewest, most = cut_out.holes
    count = fewest + int((most - fewest + 1) * uniform[CUT_COUNT])
    boxes = []
    for number in range(count):
        slots = uniform[CUT_BOX + 2 * _MAX_NDIM * number :]
        box = []
        for axis, length in enumerate(size):
            extent = max(1, round(length * _between(cut_out.extent, slots[axis])))
            start = int((length - extent + 1) * slots[_MAX_NDIM + axis])
            box.append((start, start + extent))
        boxes.append(tuple(box))
    return tuple(boxes)
