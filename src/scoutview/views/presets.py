"""The papers' views as far as one channel has them, and what small images need.

Left out everywhere: saturation, hue and conversion to grey, which one channel does not have. Flips
and solarise are off unless asked for (the papers: 0.5 and, in the second view of BYOL and Barlow
Twins, 0.2), because they change what a scan says; see `views.defaults`.
"""

from typing import TypeVar

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.views.energy_bands import each_augment
from scoutview.views.policy import (
    Augment,
    CropsAndPatches,
    EnergyBands,
    EvalView,
    Intensity,
    MultiCrop,
    Range,
    Size,
    TwoCrops,
)

P = TypeVar("P", bound=Config)

_REFERENCE_SIDE = 224
_SMALLEST_CROP, _SMALLEST_LOCAL_CROP = 16, 12
"""Pixels of the stored image along the side of a crop, large and local."""
_SMALLEST_PATCH = 12
"""Pixels of a patch, which may be larger than what it shows: networks halve it several times."""


def _augment(strength: float, *, blur: float, flip: float, solarise: float = 0.0) -> Augment:
    return Augment(
        flip_horizontal=flip,
        intensity=Intensity(
            brightness=strength,
            contrast=strength,
            blur_probability=blur,
            solarise_probability=solarise,
        ),
    )


def simclr(size: Size = 224, *, flip: float = 0.0) -> TwoCrops:
    """SimCLR's two views, jitter strength 1.

    Source: Chen et al., 2020, arXiv:2002.05709, appendix A.
    """
    return TwoCrops(size=size, scale=(0.08, 1.0), first=_augment(0.8, blur=0.5, flip=flip))


def moco_v2(size: Size = 224, *, flip: float = 0.0) -> TwoCrops:
    """MoCo v2's two views.

    Source: Chen et al., 2020, arXiv:2003.04297; facebookresearch/moco, main_moco.py.
    """
    return TwoCrops(size=size, scale=(0.2, 1.0), first=_augment(0.4, blur=0.5, flip=flip))


def byol(size: Size = 224, *, flip: float = 0.0, solarise: float = 0.0) -> TwoCrops:
    """BYOL's two unlike views: the first always blurred, the second seldom.

    Source: Grill et al., 2020, arXiv:2006.07733, table 6.
    """
    return TwoCrops(
        size=size,
        scale=(0.08, 1.0),
        first=_augment(0.4, blur=1.0, flip=flip),
        second=_augment(0.4, blur=0.1, flip=flip, solarise=solarise),
    )


def barlow_twins(size: Size = 224, *, flip: float = 0.0, solarise: float = 0.0) -> TwoCrops:
    """Barlow Twins' two views, which are BYOL's.

    Source: Zbontar et al., 2021, arXiv:2103.03230, section 2.2.
    """
    return byol(size, flip=flip, solarise=solarise)


def swav(
    counts: tuple[int, ...] = (2, 6), sizes: tuple[Size, ...] = (224, 96), *, flip: float = 0.0
) -> MultiCrop:
    """SwAV's large and small views; for other groups than two, make a `MultiCrop` with its scales.

    Source: Caron et al., 2020, arXiv:2006.09882, appendix A; facebookresearch/swav.
    """
    return MultiCrop(counts=counts, sizes=sizes, augment=(_augment(0.8, blur=0.5, flip=flip),))


def with_energy_bands(policy: P, bands: EnergyBands) -> P:
    """Change the energy bands of every view that does not do so already.

    Args:
        policy: A policy of random crops.
        bands: How; reference energies may still be open.

    Raises:
        ConfigError: The policy has no random views.
    """
    _check_random(policy)
    return each_augment(
        policy, lambda a: a if a.energy is not None else a.model_copy(update={"energy": bands})
    )


def medical(policy: P, bands: EnergyBands | None = None) -> P:
    """Replace a method's changes by the set made for medical images: rescale, energy, intensity.

    Numbers and sizes of the views stay. The image is shrunk to .1 to .7 of its length, its energy
    bands are changed, values are taken to the power of 1.8 to 2.6, or multiplied by .9 to 1.1 and
    shifted by up to a fifth of the range; then a crop is cut at random. How often each change is
    made is not published: here in half of the views.

    Args:
        policy: A method's policy of random crops, of which each crop is cut from one image.
        bands: How energy bands are changed; None takes the defaults.

    Raises:
        ConfigError: The policy has no random views, or cuts crops into patches.

    Source: Ghesu et al., 2022, arXiv:2201.01283, section III-C.
    """
    _check_random(policy)
    if not isinstance(policy, TwoCrops | MultiCrop):
        raise ConfigError(
            f"The medical set is for TwoCrops and MultiCrop, got {type(policy).__name__}; keep the"
            " method's own views."
        )
    augment = Augment(
        energy=bands or EnergyBands(),
        intensity=Intensity(
            brightness=0.1,
            shift=0.2,
            jitter_probability=0.5,
            gamma=(1.8, 2.6),
            gamma_draw="value",
            gamma_probability=0.5,
        ),
    )
    return each_augment(policy, lambda _: augment).model_copy(update={"rescale": (0.1, 0.7)})  # type: ignore[return-value]


def _check_random(policy: Config) -> None:
    if isinstance(policy, EvalView):
        raise ConfigError(
            "This method sees every image as it is, so there is no random view to change; write"
            " views with random crops, or leave the change out."
        )


def two_crops_for_small_images(policy: TwoCrops, side: int) -> TwoCrops:
    """Fit a policy to images whose shorter side is small, such as 28 pixels.

    Crops keep at least 16 pixels of the image along a side (8 % of 28 x 28 would be 8 x 8 pixels,
    which show nothing), and blur shrinks with the image.

    Args:
        policy: A policy for views of 224 pixels.
        side: Pixels of the stored images along their shorter side.
    """
    second = None if policy.second is None else _smaller(policy.second, side)
    return policy.model_copy(
        update={
            "size": side,
            "scale": _least(policy.scale, side, _SMALLEST_CROP),
            "first": _smaller(policy.first, side),
            "second": second,
        }
    )


def multi_crop_for_small_images(policy: MultiCrop, side: int) -> MultiCrop:
    """Fit a policy as `two_crops_for_small_images` does; local crops keep at least 12 pixels.

    Args:
        policy: A policy for large views of 224 pixels, largest group first.
        side: Pixels of the stored images along their shorter side.
    """
    first = policy.sizes[0] if isinstance(policy.sizes[0], int) else max(policy.sizes[0])
    sizes = [
        max(_SMALLEST_LOCAL_CROP, round(side * (s if isinstance(s, int) else max(s)) / first))
        for s in policy.sizes
    ]
    least = [_SMALLEST_CROP, *[_SMALLEST_LOCAL_CROP] * (len(sizes) - 1)]
    return policy.model_copy(
        update={
            "sizes": tuple(sizes),
            "scales": tuple(
                _least(scale, side, pixels)
                for scale, pixels in zip(policy.scales, least, strict=True)
            ),
            "augment": tuple(_smaller(a, side) for a in policy.augment),
        }
    )


def patches_for_small_images(policy: CropsAndPatches, side: int) -> CropsAndPatches:
    """Fit a policy as `two_crops_for_small_images` does; patches keep 12 pixels along a side.

    At 28 pixels a cell of the grid shows about 8 pixels of the image, which are enlarged: such a
    puzzle says less than one of a large image.

    Args:
        policy: A policy for crops of 224 pixels.
        side: Pixels of the stored images along their shorter side.
    """
    patch = policy.patch_size if isinstance(policy.patch_size, int) else max(policy.patch_size)
    cell = policy.cell_size if isinstance(policy.cell_size, int) else max(policy.cell_size)
    small = max(_SMALLEST_PATCH, round(side * patch / _REFERENCE_SIDE))
    augments = {name: getattr(policy, name) for name in ("first", "second", "patch")}
    return policy.model_copy(
        update={
            "size": side,
            "scale": _least(policy.scale, side, _SMALLEST_CROP),
            "patch_size": small,
            "cell_size": round(small * cell / patch),
            **{n: None if a is None else _smaller(a, side) for n, a in augments.items()},
        }
    )


def _least(scale: Range, side: int, pixels: int) -> Range:
    lowest = min(1.0, (pixels / side) ** 2)
    low = max(scale[0], lowest)
    # A group whose whole range lies below the limit keeps some width: up to twice the area.
    return low, max(scale[1], min(1.0, 2 * low)) if scale[1] <= low else scale[1]


def _smaller(augment: Augment, side: int) -> Augment:
    factor = min(1.0, side / _REFERENCE_SIDE)
    low, high = augment.intensity.blur_sigma
    changes: dict[str, object] = {"blur_sigma": (low * factor, high * factor)}
    if high * factor < 0.3:  # the kernel would be a single pixel to three digits
        changes = {"blur_probability": 0.0}
    intensity = augment.intensity.model_copy(update=changes)
    return augment.model_copy(update={"intensity": intensity})
