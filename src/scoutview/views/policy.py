"""Which views an image gives: how many, how large, how cropped, how changed.

A policy is a frozen configuration; it draws nothing. `draw` turns it into parameters, `apply` and
`torch_apply` turn parameters into pixels. Intensities are those of an image whose full integer
range stands for [0, 1], after the intensity policy of the data.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError

Size = int | tuple[int, ...]
"""A view's size in pixels: one number for every axis, or one per axis in the order of the image."""

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""

Probability = float

Border = Literal["zero", "edge", "reflect"]
"""What lies beyond the image: black (as air and collimators are), its edge, or its mirror image."""

Fit = Literal["pad", "crop", "stretch"]
"""Whole image with black bars, centre crop, or whole image out of proportion."""

BandBorder = Literal["reflect", "wrap"]
"""What Gaussians see beyond an image: its mirror image, or its other side."""

BandResidual = Literal["around_mean", "scale"]
"""The coarsest band is scaled around its mean, so that brightness stays, or as a whole."""

_RATIO: Range = (3 / 4, 4 / 3)
_MOST_BANDS: Final = 8
"""As many as `views.draw` keeps numbers for."""


def _check_range(name: str, value: Range, lowest: float, highest: float) -> None:
    if not lowest <= value[0] <= value[1] <= highest:
        raise ValueError(
            f"{name} must rise within [{lowest:g}, {highest:g}], got {value}; give (low, high)"
        )


class Intensity(Config):
    """Changes of grey values. Off unless switched on."""

    brightness: float = Field(0.0, ge=0, le=1)
    """Values are multiplied by a factor in [1 - b, 1 + b]."""
    contrast: float = Field(0.0, ge=0, le=1)
    """Distance to the view's mean is multiplied by a factor in [1 - c, 1 + c]."""
    shift: float = Field(0.0, ge=0, le=1)
    """A number in [-s, s] is added to [0, 1] values, after the factors."""
    jitter_probability: Probability = Field(0.8, ge=0, le=1)
    """How often brightness, contrast and shift change, all at once."""
    gamma: Range = (1.0, 1.0)
    """Exponent on [0, 1] values."""
    gamma_draw: Literal["logarithm", "value"] = "logarithm"
    """What of the exponent is uniform: its logarithm, or the exponent itself."""
    gamma_probability: Probability = Field(0.0, ge=0, le=1)
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation of the Gaussian blur in pixels of the view."""
    blur_probability: Probability = Field(0.0, ge=0, le=1)
    noise_sigma: Range = (0.0, 0.05)
    """Standard deviation of additive Gaussian noise on [0, 1] values."""
    noise_probability: Probability = Field(0.0, ge=0, le=1)
    solarise_probability: Probability = Field(0.0, ge=0, le=1)
    """How often bright values are inverted; turns bone into air, so off for radiology."""
    solarise_threshold: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _ranges_hold(self) -> Self:
        _check_range("gamma", self.gamma, 0.1, 10)
        _check_range("blur_sigma", self.blur_sigma, 0, 10)
        _check_range("noise_sigma", self.noise_sigma, 0, 1)
        return self


class CutOut(Config):
    """Boxes of the view that are painted over."""

    probability: Probability = Field(0.5, ge=0, le=1)
    holes: tuple[int, int] = (1, 1)
    """Fewest and most boxes, at most 4."""
    extent: Range = (0.1, 0.3)
    """Length of a box along each axis, as a fraction of the view."""
    fill: Literal["zero", "mean"] = "mean"
    """Black, or the mean of the view (black can be read as air)."""

    @model_validator(mode="after")
    def _ranges_hold(self) -> Self:
        _check_range("holes", self.holes, 1, 4)
        _check_range("extent", self.extent, 0, 1)
        return self


class EnergyBands(Config):
    """Details of every size are made as strong as in another image of the same kind.

    An image is split into bands by Gaussians; each band's energy, its standard deviation over the
    image, is set to a number drawn around the mean of reference images. `views.energy_bands` does
    the work; the numbers of the reference images are measured before training.

    Source: Ghesu et al., 2022, arXiv:2201.01283, section III-C; Philipsen et al., 2015.
    """

    probability: Probability = Field(0.5, ge=0, le=1)
    """How often a view is changed; the paper does not tell."""
    sigmas: tuple[float, ...] = Field((1.0, 2.0, 4.0, 8.0, 16.0), min_length=1)
    """Standard deviations of the Gaussians in pixels of the stored image, rising; one band more
    than these."""
    border: BandBorder = "reflect"
    """What the Gaussians see beyond the image."""
    cascaded: bool = True
    """Each Gaussian smooths what the one before left; otherwise the image itself."""
    residual: BandResidual = "around_mean"
    """How the coarsest band is scaled; "scale" is the paper's equation to the letter, which changes
    the brightness of the whole image."""
    distribution: Literal["normal", "uniform"] = "normal"
    """Energies are drawn between mean - std and mean + std, from a normal distribution cut off
    there, or uniformly."""
    reference_images: int = Field(1000, ge=2)
    """Most images that the reference energies are measured on."""
    mean: tuple[float, ...] | None = None
    """Mean energy of every band, finest first, on [0, 1] values; null is measured."""
    std: tuple[float, ...] | None = None
    """Standard deviation of every band's energy over the reference images; null is measured."""

    @model_validator(mode="after")
    def _bands_hold(self) -> Self:
        rising = all(a < b for a, b in pairwise((0.0, *self.sigmas)))
        if not rising or len(self.sigmas) >= _MOST_BANDS:
            raise ValueError(
                f"sigmas must be above 0, rise and be at most {_MOST_BANDS - 1}, got {self.sigmas}"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError("set both mean and std, or neither to have them measured")
        for name, values in (("mean", self.mean), ("std", self.std)):
            bands = len(self.sigmas) + 1
            if values is not None and (len(values) != bands or min(values) < 0):
                raise ValueError(f"{name} must hold {bands} numbers of at least 0, got {values}")
        return self


class Augment(Config):
    """What happens to one view after its crop is chosen. Nothing, unless switched on."""

    flip_horizontal: Probability = Field(0.0, ge=0, le=1)
    """Left and right change places (last axis)."""
    flip_vertical: Probability = Field(0.0, ge=0, le=1)
    flip_depth: Probability = Field(0.0, ge=0, le=1)
    """First axis of a volume; ignored in 2D."""
    rotation: float = Field(0.0, ge=0, le=180)
    """Largest turn in the image plane, degrees to either side."""
    rotation_through: float = Field(0.0, ge=0, le=180)
    """Largest turn out of the image plane, degrees; ignored in 2D."""
    rotation_probability: Probability = Field(1.0, ge=0, le=1)
    border: Border = "zero"
    """What a turned crop sees where it leaves the image."""
    intensity: Intensity = Intensity()
    energy: EnergyBands | None = None
    """Change of the details, before the crop."""
    cut_out: CutOut | None = None


_NOTHING = Augment()


@dataclass(frozen=True, slots=True)
class Cut:
    """How a crop is cut into patches."""

    grid: int
    """Cells along every axis."""
    cell: tuple[int, ...]
    """Size of a cell in pixels of the view."""


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """One view of a policy, with its size resolved for a number of spatial dimensions."""

    size: tuple[int, ...]
    scale: Range = (1.0, 1.0)
    ratio: Range = (1.0, 1.0)
    augment: Augment = _NOTHING
    fit: Fit | None = None
    """Set for the evaluation view, which draws nothing."""
    fraction: float = 1.0
    rescale: Range | None = None
    """Set where the image is shrunk and then cropped at the view's size."""
    cut: Cut | None = None
    """Set for the patches of a crop; those of one crop stand together."""
    log_ratio: Range = field(init=False)

    def __post_init__(self) -> None:
        low, high = self.ratio
        object.__setattr__(self, "log_ratio", (math.log(low), math.log(high)))


class TwoCrops(Config):
    """Two random crops of every image, of one size."""

    size: Size = 224
    scale: Range = (0.2, 1.0)
    """Area of a crop as a fraction of the image."""
    ratio: Range = _RATIO
    """Width over height of a crop, relative to the view's."""
    rescale: Range | None = None
    """Shrink the image to a fraction of its length in this range, then crop at the view's size;
    replaces scale and ratio. A view larger than the shrunk image shows as much as it can."""
    first: Augment = Augment()
    second: Augment | None = None
    """Treatment of the second view; like the first when not given."""

    @model_validator(mode="after")
    def _ranges_hold(self) -> Self:
        _check_crop(self.size, self.scale, self.ratio)
        _check_rescale(self.rescale)
        return self

    @property
    def n_views(self) -> int:
        """Views per image."""
        return 2

    def specs(self, ndim: int) -> tuple[ViewSpec, ...]:
        """Resolve the views for images of `ndim` spatial dimensions, in the order of the batch."""
        size = resolve_size(self.size, ndim)
        return tuple(
            ViewSpec(size, self.scale, self.ratio, augment, rescale=self.rescale)
            for augment in (self.first, self.second or self.first)
        )


class MultiCrop(Config):
    """Groups of random crops: a few large ones, many small ones.

    Source: Caron et al., 2020, arXiv:2006.09882, section 3.3.
    """

    counts: tuple[int, ...] = (2, 6)
    """Views per group."""
    sizes: tuple[Size, ...] = (224, 96)
    """Size of the views of each group."""
    scales: tuple[Range, ...] = ((0.14, 1.0), (0.05, 0.14))
    """Area of the crops of each group as a fraction of the image."""
    ratio: Range = _RATIO
    """Width over height of a crop, relative to the view's."""
    rescale: Range | None = None
    """Shrink the image to a fraction of its length in this range, then crop at the view's size;
    replaces scales and ratio. A view larger than the shrunk image shows as much as it can."""
    augment: tuple[Augment, ...] = (Augment(),)
    """One treatment for all views, one per group, one per view, or one per view of the first group
    and one for each other group."""

    @model_validator(mode="after")
    def _groups_match(self) -> Self:
        groups = len(self.counts)
        if not groups == len(self.sizes) == len(self.scales) or groups == 0:
            raise ValueError(
                "counts, sizes and scales must have one entry per group, got"
                f" {groups}, {len(self.sizes)} and {len(self.scales)}"
            )
        if min(self.counts) < 1:
            raise ValueError(f"counts must be at least 1, got {self.counts}; leave the group out")
        mixed = self.counts[0] + groups - 1
        if len(self.augment) not in (1, groups, mixed, sum(self.counts)):
            raise ValueError(
                f"augment must hold 1, {groups} (groups), {mixed} (views of the first group, other"
                f" groups) or {sum(self.counts)} (views) entries, got {len(self.augment)}"
            )
        _check_rescale(self.rescale)
        for size, scale in zip(self.sizes, self.scales, strict=True):
            _check_crop(size, scale, self.ratio)
        return self

    @property
    def n_views(self) -> int:
        """Views per image."""
        return sum(self.counts)

    def specs(self, ndim: int) -> tuple[ViewSpec, ...]:
        """Resolve the views for images of `ndim` spatial dimensions, in the order of the batch."""
        specs: list[ViewSpec] = []
        for group, count in enumerate(self.counts):
            size = resolve_size(self.sizes[group], ndim)
            for _ in range(count):
                augment = self._augment_of(view=len(specs), group=group)
                scale = self.scales[group]
                specs.append(ViewSpec(size, scale, self.ratio, augment, rescale=self.rescale))
        return tuple(specs)

    def _augment_of(self, *, view: int, group: int) -> Augment:
        # Where two of the forms are equally long they mean the same.
        known = len(self.augment)
        if known == self.n_views:
            return self.augment[view]
        if known == len(self.counts):
            return self.augment[group]
        if known == 1:
            return self.augment[0]
        return self.augment[view if group == 0 else self.counts[0] + group - 1]


class CropsAndPatches(Config):
    """Random crops, and one more crop that is cut into a grid of patches in random order.

    Each patch is a random part of its cell, so that edges do not tell which patches are neighbours.

    Source: Misra and van der Maaten, 2019, arXiv:1912.01991, section 3.2 and appendix A; Noroozi
    and Favaro, 2016, arXiv:1603.09246.
    """

    crops: Literal[1, 2] = 1
    """Crops beside the patches; they come first."""
    size: Size = 224
    """Size of the crops."""
    scale: Range = (0.2, 1.0)
    """Area of a crop as a fraction of the image."""
    ratio: Range = _RATIO
    """Width over height of a crop and of the crop that is cut, relative to the view's."""
    first: Augment = Augment()
    second: Augment | None = None
    """Treatment of the second crop; like the first when not given."""
    grid: int = Field(3, ge=1, le=4)
    """Cells along every axis of the crop that is cut."""
    cell_size: Size = 85
    """Size of a cell."""
    patch_size: Size = 64
    """Size of the patch that is taken out of each cell."""
    patch_scale: Range = (0.6, 1.0)
    """Area of the crop that is cut as a fraction of the image."""
    patch: Augment | None = None
    """Treatment of the patches; like the first crop's when not given. Flip and rotation are those
    of the crop that is cut, the rest is drawn for each patch."""

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        _check_crop(self.size, self.scale, self.ratio)
        _check_crop(self.cell_size, self.patch_scale, self.ratio)
        _check_size(self.patch_size)
        if self.second is not None and self.crops == 1:
            raise ValueError("second needs a second crop; set crops to 2 or leave second out")
        axes = max(len(s) for s in (self.cell_size, self.patch_size, (0,)) if isinstance(s, tuple))
        cell, patch = (resolve_size(s, axes) for s in (self.cell_size, self.patch_size))
        if any(p > c for p, c in zip(patch, cell, strict=True)):
            raise ValueError(
                f"patch_size must be at most cell_size, which is {self.cell_size}, got"
                f" {self.patch_size}"
            )
        return self

    @property
    def n_views(self) -> int:
        """Views per image of two dimensions."""
        return self.crops + self.grid**2

    def specs(self, ndim: int) -> tuple[ViewSpec, ...]:
        """Resolve the views for images of `ndim` spatial dimensions: crops, then patches."""
        size = resolve_size(self.size, ndim)
        crops = (self.first, self.second or self.first)[: self.crops]
        cut = Cut(self.grid, resolve_size(self.cell_size, ndim))
        patch = ViewSpec(
            resolve_size(self.patch_size, ndim),
            self.patch_scale,
            self.ratio,
            self.patch or self.first,
            cut=cut,
        )
        return (
            *(ViewSpec(size, self.scale, self.ratio, augment) for augment in crops),
            *[patch] * self.grid**ndim,
        )


class EvalView(Config):
    """The one view that features, probes and predictions see. Nothing is random."""

    size: Size = 224
    fit: Fit = "pad"
    """How an image of other proportions comes into the view; "pad" shows all of it undistorted."""
    fraction: float = Field(1.0, gt=0, le=1)
    """Share of the fitted length that is shown: .875 is the 224-of-256 centre crop of ImageNet."""

    @model_validator(mode="after")
    def _size_holds(self) -> Self:
        _check_size(self.size)
        return self

    @property
    def n_views(self) -> int:
        """Views per image."""
        return 1

    def specs(self, ndim: int) -> tuple[ViewSpec, ...]:
        """Resolve the view for images of `ndim` spatial dimensions."""
        size = resolve_size(self.size, ndim)
        return (ViewSpec(size, fit=self.fit, fraction=self.fraction),)


ViewPolicy = TwoCrops | MultiCrop | CropsAndPatches | EvalView


def resolve_size(size: Size, ndim: int) -> tuple[int, ...]:
    """Write a size out for every axis.

    Raises:
        ConfigError: The size has another number of axes than the images.
    """
    if isinstance(size, int):
        return (size,) * ndim
    if len(size) != ndim:
        raise ConfigError(
            f"A view of size {size} needs images with {len(size)} spatial axes, these have {ndim};"
            f" give one number or {ndim}."
        )
    return size


def _check_rescale(rescale: Range | None) -> None:
    if rescale is not None:
        _check_range("rescale", rescale, 1e-3, 1)


def _check_size(size: Size) -> None:
    lengths = (size,) if isinstance(size, int) else size
    if not lengths or min(lengths) < 1:
        raise ValueError(f"size must be at least 1 pixel along every axis, got {size}")


def _check_crop(size: Size, scale: Range, ratio: Range) -> None:
    _check_size(size)
    _check_range("scale", scale, 1e-6, 1)
    _check_range("ratio", ratio, 0.01, 100)
