"""What is safe for which modality, as limits that a policy is held to.

A published policy was made for photographs. On scans some of its changes alter the finding itself:

- Left and right. A mirrored chest radiograph shows the heart on the right: that is dextrocardia, a
  diagnosis, and its side marker becomes unreadable. Liver, stomach and bowel have sides as well. So
  horizontal flips are off for radiographs, CT, MR and nuclear medicine. They stay where anatomy is
  paired and stored both ways (breasts, eyes) or where the probe is held either way (ultrasound).
- Up and down. Air rises and fluid sinks; vertical flips are off wherever up has a meaning.
- Grey values. CT and PET are calibrated, so brightness changes little there. Inverting values
  (solarise) turns bone into air and is never used. Hue does not exist in this engine.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from scoutview.base.errors import unknown
from scoutview.views.policy import (
    Augment,
    CropsAndPatches,
    EvalView,
    Intensity,
    MultiCrop,
    TwoCrops,
)

P = TypeVar("P", TwoCrops, MultiCrop, CropsAndPatches, EvalView)


@dataclass(frozen=True)
class Limits:
    """The largest values that a modality allows; 0 is never."""

    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    flip_depth: float = 0.0
    rotation: float = 15.0
    brightness: float = 0.2
    """Films are bright where tissue is dense: a larger factor burns out mediastinum and abdomen."""
    contrast: float = 0.4
    note: str = ""


_RADIOGRAPH = Limits(note="the heart's side is a finding; side markers must stay readable")
_FREE = Limits(0.5, 0.5, 0.5, 180.0, 0.4, 0.4, "specimen or camera have no fixed direction")

LIMITS: dict[str, Limits] = {
    "CR": _RADIOGRAPH,
    "CT": Limits(brightness=0.1, contrast=0.2, note="organs have sides; values are calibrated"),
    "DX": _RADIOGRAPH,
    "ES": _FREE,
    "GM": _FREE,
    "IO": _RADIOGRAPH,
    "MG": Limits(flip_horizontal=0.5, note="breasts are paired and stored both ways"),
    "MR": Limits(note="organs and hemispheres have sides"),
    "NM": Limits(brightness=0.1, contrast=0.2, note="organs have sides; counts carry meaning"),
    "OCT": Limits(flip_horizontal=0.5, rotation=10.0, note="eyes are paired; layers have an order"),
    "OP": Limits(flip_horizontal=0.5, note="eyes are paired"),
    "PT": Limits(brightness=0.1, contrast=0.2, note="organs have sides; values are calibrated"),
    "PX": _RADIOGRAPH,
    "RF": _RADIOGRAPH,
    "SM": _FREE,
    "US": Limits(flip_horizontal=0.5, rotation=10.0, note="the probe is held either way"),
    "XA": _RADIOGRAPH,
    "XC": _FREE,
    "other": Limits(rotation=10.0, brightness=0.1, contrast=0.2, note="nothing is known"),
}
"""Limits per modality word of `pixels.vocabulary`."""


def limits_of(modality: str) -> Limits:
    """Look up what a modality allows.

    Raises:
        ConfigError: The modality is not a word of the vocabulary.
    """
    if modality not in LIMITS:
        raise unknown("modality", modality, LIMITS)
    return LIMITS[modality]


def for_modality(modality: str, policy: P) -> P:
    """Hold a policy to what is safe for a modality. Lowers what is too much, adds nothing.

    Args:
        modality: Word of the vocabulary, such as "CR".
        policy: Any policy; an evaluation view comes back as it is.

    Raises:
        ConfigError: The modality is not a word of the vocabulary.
    """
    limits = limits_of(modality)
    if isinstance(policy, TwoCrops):
        second = None if policy.second is None else _limited(policy.second, limits)
        changes = {"first": _limited(policy.first, limits), "second": second}
        return policy.model_copy(update=changes)
    if isinstance(policy, CropsAndPatches):
        parts = {name: getattr(policy, name) for name in ("first", "second", "patch")}
        return policy.model_copy(
            update={n: None if a is None else _limited(a, limits) for n, a in parts.items()}
        )
    if isinstance(policy, MultiCrop):
        augment = tuple(_limited(a, limits) for a in policy.augment)
        return policy.model_copy(update={"augment": augment})
    return policy


def for_modalities(modalities: Iterable[str], policy: P) -> P:
    """Hold a policy to what is safe for all of several modalities."""
    for modality in sorted(set(modalities)):
        policy = for_modality(modality, policy)
    return policy


def augment_for(modality: str) -> Augment:
    """Suggest a treatment for views of about 224 pixels, within the modality's limits.

    Turns up to 10 degrees, as patients lie and stand; brightness, contrast and gamma, as exposure
    and windows differ; a little blur, as detectors and kernels differ.
    """
    wish = Augment(
        flip_horizontal=0.5,
        flip_vertical=0.5,
        flip_depth=0.5,
        rotation=10.0,
        intensity=Intensity(
            brightness=0.2,
            contrast=0.3,
            gamma=(0.75, 1.33),
            gamma_probability=0.5,
            blur_sigma=(0.1, 1.5),
            blur_probability=0.3,
        ),
    )
    return _limited(wish, limits_of(modality))


def _limited(augment: Augment, limits: Limits) -> Augment:
    intensity = augment.intensity
    return augment.model_copy(
        update={
            "flip_horizontal": min(augment.flip_horizontal, limits.flip_horizontal),
            "flip_vertical": min(augment.flip_vertical, limits.flip_vertical),
            "flip_depth": min(augment.flip_depth, limits.flip_depth),
            "rotation": min(augment.rotation, limits.rotation),
            "rotation_through": min(augment.rotation_through, limits.rotation),
            "intensity": intensity.model_copy(
                update={
                    "brightness": min(intensity.brightness, limits.brightness),
                    "contrast": min(intensity.contrast, limits.contrast),
                    "shift": min(intensity.shift, limits.brightness),
                    "solarise_probability": 0.0,
                }
            ),
        }
    )
