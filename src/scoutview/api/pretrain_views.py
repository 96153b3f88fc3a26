"""How `pretrain` settles views: safe for modalities, fit for the size, energies measured."""

from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.base.randomness import SUBSETS, generator
from scoutview.data.samples import Samples
from scoutview.methods.config import MethodConfig
from scoutview.store.reader import Store
from scoutview.views.defaults import LIMITS, for_modalities
from scoutview.views.energy_bands import each_augment, fit_policy
from scoutview.views.policy import Augment, CropsAndPatches, EnergyBands, MultiCrop, TwoCrops
from scoutview.views.presets import (
    medical,
    multi_crop_for_small_images,
    patches_for_small_images,
    two_crops_for_small_images,
    with_energy_bands,
)

ViewPreset = Literal["method", "medical"]

_SMALL_SIDE: Final = 224
"""Images with a shorter side below this get views of their own size."""
_KEPT_BY_PRESET: Final = {"counts", "size", "sizes"}
"""What may be written of views beside a preset."""
_REFERENCE: Final = 1
"""Address of the draw of reference images."""


def settled_views(
    settings: MethodConfig,
    samples: Samples,
    store: Store,
    *,
    preset: ViewPreset = "method",
    energy_bands: EnergyBands | None = None,
    views_on: Literal["cpu", "device"] = "cpu",
    seed: int = 0,
) -> tuple[MethodConfig, list[str]]:
    """Decide what was left open of a method's views.

    Args:
        settings: The method's configuration; what the user wrote of its views stays.
        samples: The training set.
        store: Where it is.
        preset: The method's own views, or their numbers and sizes with the medical changes.
        energy_bands: Change of energy bands for every view that has none of its own.
        views_on: Where views are made.
        seed: The run's seed, which chooses the reference images.

    Returns:
        The configuration, in which nothing of the views is open, and what was decided.

    Raises:
        ConfigError: Two settings contradict each other.
    """
    views: Any = settings.views  # type: ignore[attr-defined]
    written = views if "views" in settings.model_fields_set else None
    if preset == "medical":
        _check_preset(written)
        views = medical(views, energy_bands)
    views, notes = _fitted(views, written, samples, store)
    if preset != "medical" and energy_bands is not None:
        views = with_energy_bands(views, energy_bands)
    changed = _bands_of(views)
    if changed and views_on == "device":
        raise ConfigError(
            "Energy bands change whole images on the CPU; set views_on to cpu, or leave them out."
        )
    if any(bands.mean is None for bands in changed):
        chosen = _reference(len(samples), max(b.reference_images for b in changed), seed)
        views = fit_policy(views, lambda count: _images(samples, chosen[:count]))
        notes.append(f"Reference energies were measured on {len(chosen)} training images.")
    if views == settings.views:  # type: ignore[attr-defined]
        return settings, notes
    return settings.model_copy(update={"views": views}), notes


def _check_preset(written: Config | None) -> None:
    named = set() if written is None else written.model_fields_set - _KEPT_BY_PRESET
    if named:
        raise ConfigError(
            "view_preset 'medical' replaces the method's views except for their number and size,"
            f" but more of views was written ({', '.join(sorted(named))}); leave one of them out."
        )


def _fitted(
    views: Any, written: Config | None, samples: Samples, store: Store
) -> tuple[Any, list[str]]:
    """Fit views to the images' size and modalities; what was written of them stays."""

    def kept(policy: Any) -> Any:
        return policy if written is None else written.over(policy)

    table = store.table.mapped[samples.rows[:: max(1, len(samples.rows) // 1000)]]
    side = int(np.median(np.minimum(table["height"], table["width"])))
    # files without a header say nothing of their modality: the strictest limits hold
    named = {store.groups[group] for group in np.unique(table["group"])}
    views = kept(views)
    fitted = kept(for_modalities({name if name in LIMITS else "other" for name in named}, views))
    notes = []
    if fitted != views:
        notes.append("Views are held to what is safe for the modalities of the data.")
    if side < _SMALL_SIDE:
        small = kept(_for_small_images(fitted, side))
        notes += _told(fitted, small, side)
        fitted = small
    open_ = written is None or "rescale" not in written.model_fields_set
    rescale = getattr(fitted, "rescale", None) if open_ else None
    if rescale and side * rescale[1] <= max(max(spec.size) for spec in fitted.specs(2)):
        fitted = fitted.model_copy(update={"rescale": None})
        notes.append(
            f"Images of {side} pixels would be smaller than the views once they are shrunk, so"
            " crops are drawn by area instead."
        )
    return fitted, notes


def _for_small_images(views: Any, side: int) -> Any:
    if isinstance(views, TwoCrops):
        return two_crops_for_small_images(views, side)
    if isinstance(views, MultiCrop):
        return multi_crop_for_small_images(views, side)
    if isinstance(views, CropsAndPatches):
        return patches_for_small_images(views, side)
    return views.model_copy(update={"size": side})


def _told(before: Any, small: Any, side: int) -> list[str]:
    """Say what fitting views to small images changed."""
    if small == before:
        return []
    sizes = [[spec.size for spec in policy.specs(2)] for policy in (before, small)]
    what = "lowered to the images' own size," if sizes[0] != sizes[1] else "fitted to images of"
    blurred = [
        any(spec.augment.intensity.blur_probability for spec in policy.specs(2))
        for policy in (before, small)
    ]
    off = " Blur is off, which would be below a pixel." if blurred == [True, False] else ""
    return [f"Views are {what} {side} pixels.{off}"]


def _bands_of(views: Any) -> set[EnergyBands]:
    found: set[EnergyBands] = set()

    def look(augment: Augment) -> Augment:
        if augment.energy is not None:
            found.add(augment.energy)
        return augment

    each_augment(views, look)
    return found


def _reference(size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Choose samples of the training set; a smaller choice is the beginning of a larger one."""
    random = generator(seed, SUBSETS, _REFERENCE)
    return random.choice(size, min(size, count), replace=False).astype(np.int64)


def _images(samples: Samples, positions: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    image, slices, records = samples.locate(positions)
    for i, record in enumerate(records):
        yield samples.image(record, int(slices[i]), int(samples.rows[image[i]]), None)
