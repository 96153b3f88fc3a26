"""Energy bands: an image as a sum of details of growing size, each brought to a drawn energy.

How strong the details of each size are differs between detectors, exposures and processing, and
says little about the patient. Band j is what a Gaussian of sigma_j takes away from what the finer
ones left; the last band is the rest. The energy of a band is its standard deviation.

Source: Philipsen et al., 2015, IEEE Transactions on Medical Imaging 34(9), 1965-1975; as
augmentation: Ghesu et al., 2022, arXiv:2201.01283, section III-C and eq. 8.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from scoutview.base.config import Config
from scoutview.base.errors import DataError
from scoutview.views.policy import Augment, BandBorder, BandResidual, EnergyBands

Pixels = NDArray[Any]

REACH: Final = 4.0
"""Standard deviations after which the Gaussians are cut off."""
SILENT: Final = 1e-4
"""Bands of less energy than this, on [0, 1] values, are left as they are: there is nothing but
rounding in them, which would be blown up."""


def decompose(
    image: Pixels,
    sigmas: Sequence[float],
    *,
    border: BandBorder = "reflect",
    cascaded: bool = True,
) -> Pixels:
    """Split an image into bands, which sum to it.

    Args:
        image: (H, W) or (H, W, 3), float32 or float64.
        sigmas: Standard deviations of the Gaussians in pixels, B - 1 of them, > 0, rising.
        border: What the Gaussians see beyond the image: its mirror image, or its other side
            (DIAGNijmegen/opencxr).
        cascaded: Each Gaussian smooths what the one before left; otherwise the image itself.

    Returns:
        Bands, finest first, the rest last, (B, *image.shape).
    """
    bands = np.empty((len(sigmas) + 1, *image.shape), dtype=image.dtype)
    left = image
    for band, sigma in zip(bands, sigmas, strict=False):
        smooth = _smoothed(left if cascaded else image, sigma, border)
        np.subtract(left, smooth, out=band)
        left = smooth
    bands[-1] = left
    return bands


def _smoothed(image: Pixels, sigma: float, border: BandBorder) -> Pixels:
    radius = int(REACH * sigma + 0.5)
    distance = np.arange(-radius, radius + 1, dtype=np.float64) / sigma
    kernel = np.exp(-0.5 * distance**2)
    kernel /= kernel.sum()
    mode: Literal["symmetric", "wrap"] = "symmetric" if border == "reflect" else "wrap"
    margins = [(radius, radius)] * 2 + [(0, 0)] * (image.ndim - 2)
    wide = np.pad(image, margins, mode=mode)  # OpenCV knows no border that wraps
    smooth = cv2.sepFilter2D(wide, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    height, width = image.shape[:2]
    return smooth[radius : radius + height, radius : radius + width]


def energies(bands: Pixels, region: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Measure the standard deviation of every band.

    Args:
        bands: (B, H, W) or (B, H, W, 3).
        region: Pixels that count, (H, W); None counts all.

    Returns:
        Energies, (B,), >= 0, biased (divided by the number of pixels).
    """
    flat = bands.reshape(len(bands), -1) if region is None else bands[:, region]
    return np.asarray(flat.std(axis=tuple(range(1, flat.ndim)), dtype=np.float64))


def recombine(
    bands: Pixels,
    measured: NDArray[np.float64],
    wanted: Sequence[float] | NDArray[np.float64],
    *,
    residual: BandResidual | Literal["standardise"] = "around_mean",
    middle: float | None = None,
    silent: float = SILENT,
) -> Pixels:
    """Bring every band to an energy and sum them up.

    Args:
        bands: Finest first, the rest last, (B, H, W) or (B, H, W, 3).
        measured: Energies of the bands, (B,).
        wanted: Energies that they shall have, (B,), >= 0.
        residual: "around_mean" scales the rest around its mean, so that brightness stays; "scale"
            scales it as the other bands (Ghesu et al., eq. 8 to the letter); "standardise" brings
            it to mean 0 and energy 1 (DIAGNijmegen/opencxr).
        middle: Mean of the rest; None measures it over the whole image.
        silent: Bands with no more energy stay as they are.

    Returns:
        The image, of the bands' type.
    """
    loud = measured > silent
    gains = np.where(loud, np.asarray(wanted) / np.where(loud, measured, 1.0), 1.0)
    shift = 0.0
    if residual != "scale":
        middle = float(bands[-1].mean(dtype=np.float64)) if middle is None else middle
        if residual == "standardise":
            gains[-1] = 1.0 / measured[-1] if loud[-1] else 1.0
        shift = (middle if residual == "around_mean" else 0.0) - gains[-1] * middle
    summed = np.tensordot(gains.astype(bands.dtype), bands, axes=1)
    return np.asarray(summed + bands.dtype.type(shift))


def fit_energies(images: Iterable[Pixels], config: EnergyBands) -> EnergyBands:
    """Measure the reference energies of a set of images.

    Args:
        images: (H, W) or (H, W, 3), uint8 or uint16 with full range for [0, 1], or float already
            in [0, 1].
        config: Which bands.

    Returns:
        The configuration with mean and standard deviation of every band's energy.

    Raises:
        DataError: There is no image.
    """
    found = [
        energies(decompose(_unit(i), config.sigmas, border=config.border, cascaded=config.cascaded))
        for i in images
    ]
    if not found:
        raise DataError("Reference energies need at least one image; check the training set.")
    mean, std = np.mean(found, axis=0).tolist(), np.std(found, axis=0).tolist()
    return config.model_copy(update={"mean": tuple(mean), "std": tuple(std)})


def _unit(image: Pixels) -> Pixels:
    if image.dtype.kind == "f":
        return image
    return image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)


class BandedImage:
    """An image split once, for all of its views."""

    def __init__(
        self, image: Pixels, sigmas: Sequence[float], border: BandBorder, cascaded: bool
    ) -> None:
        """Split an image.

        Args:
            image: (H, W) or (H, W, 3), uint8 or uint16 whose full range stands for [0, 1].
            sigmas: As for `decompose`.
            border: As for `decompose`.
            cascaded: As for `decompose`.
        """
        unit = _unit(image)
        self._dtype = image.dtype
        self._range = float(unit.min()), float(unit.max())
        self._bands = decompose(unit, sigmas, border=border, cascaded=cascaded)
        self._energies = energies(self._bands)
        self._middle = float(self._bands[-1].mean(dtype=np.float64))

    def with_energies(self, wanted: Sequence[float], residual: BandResidual) -> Pixels:
        """Return the image with other energies, of its type, within its own range of values."""
        changed = recombine(
            self._bands, self._energies, wanted, residual=residual, middle=self._middle
        )
        np.clip(changed, *self._range, out=changed)
        full = np.float32(np.iinfo(self._dtype).max)
        return np.rint(changed * full).astype(self._dtype)


P = TypeVar("P", bound=Config)


def each_augment(policy: P, change: Callable[[Augment], Augment]) -> P:
    """Change every treatment of a policy, whatever the policy calls it.

    Args:
        policy: A view policy; one without treatments comes back as it is.
        change: From a treatment to its replacement.
    """
    changed: dict[str, object] = {}
    for name in type(policy).model_fields:
        value = getattr(policy, name)
        if isinstance(value, Augment):
            changed[name] = change(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Augment):
            changed[name] = tuple(change(item) for item in value)
    return policy.model_copy(update=changed)


def fit_policy(policy: P, images: Callable[[int], Iterable[Pixels]]) -> P:
    """Measure the reference energies that a policy leaves open.

    Args:
        policy: A view policy; what it says of mean and standard deviation stays.
        images: Gives at most so many images of the training set, as for `fit_energies`.

    Returns:
        The policy, ready to be drawn from.
    """
    known: dict[EnergyBands, EnergyBands] = {}

    def fitted(augment: Augment) -> Augment:
        bands = augment.energy
        if bands is None or bands.mean is not None:
            return augment
        if bands not in known:
            known[bands] = fit_energies(images(bands.reference_images), bands)
        return augment.model_copy(update={"energy": known[bands]})

    return each_augment(policy, fitted)
