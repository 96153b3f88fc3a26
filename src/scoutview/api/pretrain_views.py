"""How `pretrain` settles views: safe for modalities, fit for the size, energies measured."""

from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

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
        settings: The method's configuration; views that the user wrote keep what was written.
        samples: The training set.
        store: Where it is.
        preset: The method's own views, or their numbers and sizes with the medical changes.
        energy_bands: Change of energy bands for every view that has none.
        views_on: Where views are made.
        seed: The run's seed, which chooses the reference images.

    Returns:
        The configuration, in which nothing of the views is open, and what was decided.

    Raises:
        ConfigError: Two settings contradict each other.
    """
    views: Any = settings.views  # type: ignore[attr-defined]
    notes: list[str] = []
    if "views" not in settings.model_fields_set:
        views, notes = _fitted(medical(views) if preset == "medical" else views, samples, store)
    elif preset != "method":
        raise ConfigError(
            f"view_preset {preset!r} replaces the method's views, but views were written as well;"
            " leave one of them out."
        )
    if energy_bands is not None:
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


def _fitted(views: Any, samples: Samples, store: Store) -> tuple[Any, list[str]]:
    """Fit views to the images' size and modalities."""
    table = store.table.mapped[samples.rows[:: max(1, len(samples.rows) // 1000)]]
    side = int(np.median(np.minimum(table["height"], table["width"])))
    # files without a header say nothing of their modality: the strictest limits hold
    named = {store.groups[group] for group in np.unique(table["group"])}
    fitted = for_modalities({name if name in LIMITS else "other" for name in named}, views)
    notes = []
    if fitted != views:
        notes.append("Views are held to what is safe for the modalities of the data.")
    if side < _SMALL_SIDE:
        if isinstance(fitted, TwoCrops):
            fitted = two_crops_for_small_images(fitted, side)
        elif isinstance(fitted, MultiCrop):
            fitted = multi_crop_for_small_images(fitted, side)
        elif isinstance(fitted, CropsAndPatches):
            fitted = patches_for_small_images(fitted, side)
        else:
            fitted = fitted.model_copy(update={"size": side})
        notes.append(f"Views are lowered to the images' own size, {side} pixels.")
    rescale = getattr(fitted, "rescale", None)
    if rescale and side * rescale[1] <= max(max(spec.size) for spec in fitted.specs(2)):
        fitted = fitted.model_copy(update={"rescale": None})
        notes.append(
            f"Images of {side} pixels would be smaller than the views once they are shrunk, so"
            " crops are drawn by area instead."
        )
    return fitted, notes


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
