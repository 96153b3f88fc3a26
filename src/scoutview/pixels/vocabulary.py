"""Closed vocabularies: nothing that a header's author typed passes through.

A word that is not known becomes "other", an empty field "unknown".
"""

import re
from functools import lru_cache
from typing import Final

MODALITIES: Final = (
    "CR", "CT", "DX", "ES", "GM", "IO", "MG", "MR", "NM", "OCT", "OP", "PT", "PX", "RF", "SM",
    "US", "XA", "XC",
)  # fmt: skip
"""Modality words, as DICOM spells them (OPT and IVOCT are "OCT"; OP is the eye's photograph)."""

BODY_PARTS: Final = (
    "abdomen", "ankle", "arm", "bladder", "brain", "breast", "cervical_spine", "chest", "elbow",
    "eye", "face", "femur", "finger", "foot", "forearm", "hand", "head", "heart", "hip", "humerus",
    "jaw", "kidney", "knee", "leg", "liver", "lumbar_spine", "lung", "neck", "pancreas", "pelvis",
    "prostate", "rib", "shoulder", "sinus", "skin", "skull", "spine", "thoracic_spine", "thyroid",
    "toe", "tooth", "uterus", "whole_body", "wrist",
)  # fmt: skip
"""Body part words."""

PROJECTIONS: Final = (
    "AP",
    "PA",
    "lateral",
    "oblique",
    "CC",
    "MLO",
    "ML",
    "LM",
    "XCCL",
    "decubitus",
)
"""Projection words of radiographs and mammograms."""

LATERALITIES: Final = ("left", "right", "both", "unpaired")
"""Laterality words."""

OTHER: Final = "other"
UNKNOWN: Final = "unknown"

_MODALITY_SYNONYMS: Final = {
    "MRI": "MR", "MRT": "MR", "PET": "PT", "XRAY": "DX", "CXR": "DX", "DR": "DX", "DF": "RF",
    "OPT": "OCT", "IVOCT": "OCT", "ST": "NM", "SPECT": "NM", "CD": "US", "DD": "US", "DS": "XA",
    "XRAYANGIOGRAPHY": "XA", "ULTRASOUND": "US", "MAMMO": "MG", "MAMMOGRAPHY": "MG", "RG": "CR",
    "IVUS": "US", "DG": "PX",
}  # fmt: skip
_BODY_PART_SYNONYMS: Final = {
    "THORAX": "chest", "CHESTABDOMEN": "chest", "CHESTABDPELVIS": "chest", "CHESTABDOMENPELVIS":
    "chest", "TORSO": "chest", "ABD": "abdomen", "ABDOMENPELVIS": "abdomen", "ABDPELVIS": "abdomen",
    "HEADNECK": "head", "CSPINE": "cervical_spine", "TSPINE": "thoracic_spine", "LSPINE":
    "lumbar_spine", "LSSPINE": "lumbar_spine", "DSPINE": "thoracic_spine", "CARDIAC": "heart",
    "EXTREMITY": "other", "LOWEXM": "leg", "UPEXM": "arm", "LEGS": "leg", "TIBIA": "leg", "FIBULA":
    "leg", "TIBIAFIBULA": "leg", "RETINA": "eye", "ORBIT": "eye", "MANDIBLE": "jaw", "MAXILLA":
    "jaw", "THIGH": "femur", "WHOLEBODY": "whole_body", "SINUSES": "sinus", "TEETH": "tooth",
    "RADIUS": "forearm", "ULNA": "forearm", "RIBS": "rib", "LUNGS": "lung", "HEAD": "head",
    "CRANIUM": "skull", "MAMMA": "breast",
}  # fmt: skip
_PROJECTION_SYNONYMS: Final = {
    "LAT": "lateral", "LL": "lateral", "RL": "lateral", "LLAT": "lateral", "RLAT": "lateral",
    "LEFTLATERAL": "lateral", "RIGHTLATERAL": "lateral", "LATERALVIEW": "lateral",
    "POSTEROANTERIOR": "PA", "POSTEROANTERIORVIEW": "PA", "ANTEROPOSTERIOR": "AP", "APSUPINE": "AP",
    "APPORTABLE": "AP", "APERECT": "AP", "PAERECT": "PA", "PORTABLE": "AP", "LAO": "oblique",
    "RAO": "oblique", "LPO": "oblique", "RPO": "oblique", "OBL": "oblique", "LLO": "oblique",
    "RLO": "oblique", "LLD": "decubitus", "RLD": "decubitus", "CRANIOCAUDAL": "CC",
    "MEDIOLATERALOBLIQUE": "MLO", "MEDIOLATERAL": "ML", "LATEROMEDIAL": "LM", "LMO": "oblique",
}  # fmt: skip
_LATERALITY_SYNONYMS: Final = {
    "L": "left", "R": "right", "B": "both", "U": "unpaired", "BILATERAL": "both", "LEFTSIDE":
    "left", "RIGHTSIDE": "right",
}  # fmt: skip


def _plain(text: str) -> str:
    return re.sub(r"[^A-Z0-9]", "", text.upper())


def _table(words: tuple[str, ...], synonyms: dict[str, str]) -> dict[str, str]:
    return {**{_plain(word): word for word in words}, **synonyms}


_MODALITY: Final = _table(MODALITIES, _MODALITY_SYNONYMS)
_BODY_PART: Final = _table(BODY_PARTS, _BODY_PART_SYNONYMS)
_PROJECTION: Final = _table(PROJECTIONS, _PROJECTION_SYNONYMS)
_LATERALITY: Final = _table(LATERALITIES, _LATERALITY_SYNONYMS)


@lru_cache(maxsize=4096)
def modality(text: str) -> str:
    """Map a modality to `MODALITIES`, "other" or "unknown"."""
    return _look_up(text, _MODALITY)


@lru_cache(maxsize=4096)
def body_part(text: str) -> str:
    """Map a body part to `BODY_PARTS`, "other" or "unknown"."""
    return _look_up(text, _BODY_PART)


@lru_cache(maxsize=4096)
def projection(text: str) -> str:
    """Map a view position to `PROJECTIONS`, "other" or "unknown"."""
    return _look_up(text, _PROJECTION)


@lru_cache(maxsize=4096)
def laterality(text: str) -> str:
    """Map a laterality to `LATERALITIES`, "other" or "unknown"."""
    return _look_up(text, _LATERALITY)


def _look_up(text: str, table: dict[str, str]) -> str:
    plain = _plain(text)
    if not plain:
        return OTHER if text.strip() else UNKNOWN  # letters of another script are not empty
    return table.get(plain, OTHER)
