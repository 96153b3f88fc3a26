"""DICOM object classes that are not images, by SOP class UID; and one transfer syntax."""

from typing import Final

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
"""The transfer syntax whose whole data set is compressed."""

_KINDS: Final = {
    "66": "raw_data",
    "66.1": "registration",
    "66.2": "fiducials",
    "66.3": "registration",
    "66.4": "segmentation",
    "66.5": "surface",
    "66.6": "tractography",
    "66.7": "segmentation",
    "66.8": "segmentation",
    "67": "real_world_mapping",
    "68.1": "surface",
    "68.2": "surface",
    "4.2": "spectroscopy",
    "30": "parametric_map",
    "481.2": "dose",
    "481.3": "structure_set",
    "481.4": "treatment_record",
    "481.5": "plan",
    "481.6": "treatment_record",
    "481.7": "treatment_record",
    "481.8": "plan",
    "481.9": "treatment_record",
    "88.59": "key_objects",
}
_PREFIXES: Final = (
    ("9.", "waveform"),
    ("11.", "presentation_state"),
    ("88.", "report"),
    ("104.", "document"),
    ("481.10", "plan"),
    ("481.11", "treatment_record"),
    ("481.12", "plan"),
    ("481.13", "treatment_record"),
    ("481.14", "treatment_record"),
    ("481.15", "treatment_record"),
    ("481.16", "treatment_record"),
    ("481.17", "treatment_record"),
    ("481.18", "treatment_record"),
    ("481.19", "treatment_record"),
    ("481.20", "treatment_record"),
    ("481.21", "treatment_record"),
    ("481.22", "treatment_record"),
    ("481.23", "treatment_record"),
    ("481.24", "treatment_record"),
    ("481.25", "treatment_record"),
    ("78.", "ophthalmic_measurement"),
    ("79.1", "ophthalmic_measurement"),
    ("80.1", "ophthalmic_measurement"),
    ("90.1", "assessment"),
    ("200.", "protocol"),
    ("201.", "inventory"),
)
_OUTSIDE: Final = {
    "1.2.840.10008.1.3.10": "dicomdir",
    "1.2.840.10008.5.1.4.38.1": "hanging_protocol",
    "1.2.840.10008.5.1.4.39.1": "palette",
    "1.2.840.10008.5.1.4.43.1": "implant_template",
    "1.2.840.10008.5.1.4.34.7": "plan",
}
_BY_MODALITY: Final = {
    "SEG": "segmentation",
    "RTDOSE": "dose",
    "RTSTRUCT": "structure_set",
    "RTPLAN": "plan",
    "RTRECORD": "treatment_record",
    "SR": "report",
    "KO": "key_objects",
    "PR": "presentation_state",
    "REG": "registration",
    "DOC": "document",
    "ECG": "waveform",
    "RWV": "real_world_mapping",
}

SECONDARY_CAPTURE: Final = f"{_STORAGE}7"
"""Prefix of the secondary capture classes."""

KINDS: Final = frozenset(
    [*_KINDS.values(), *(kind for _, kind in _PREFIXES), *_OUTSIDE.values(), "other_object"]
)
"""Every kind that `kind_of` returns, and "other_object" for an unknown class without pixels."""


def kind_of(sop_class: str, modality: str) -> str:
    """Return the kind of a non-image object, "" for everything that may be an image.

    Args:
        sop_class: SOP class UID; "" if the file names none, then the modality decides.
        modality: The file's modality field.

    Source: DICOM PS3.4 table B.5-1.
    """
    if not sop_class:
        return _BY_MODALITY.get(modality, "")
    if not sop_class.startswith(_STORAGE):
        return _OUTSIDE.get(sop_class, "")
    rest = sop_class[len(_STORAGE) :]
    if rest in _KINDS:
        return _KINDS[rest]
    return next((kind for prefix, kind in _PREFIXES if rest.startswith(prefix)), "")
