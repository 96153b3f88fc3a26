"""What a reader says about a file before any pixel is decoded."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Locator:
    """Where the pixels of one image lie. Private: it holds a source path."""

    path: str
    """The file on disk."""
    member: str = ""
    """A file in a zip archive, an array in an npz file, or both as `inner.npz!train_images`."""
    item: int = -1
    """Frame of a multi-frame file or row of an array; -1 is the whole."""


@dataclass(frozen=True)
class Header:
    """One image, one frame stack or one volume, as its file describes it.

    Original identifiers stand here in clear; `index` turns them into pseudonyms at once.
    """

    locator: Locator
    source: str
    """"dicom", "nifti", "raster" or "npz"."""
    shape: tuple[int, ...]
    """(H, W) or (D, H, W), in stored order; colour is in `channels`."""
    dtype: str
    """NumPy name of the stored values, as "uint16"."""
    channels: int = 1
    bits_stored: int = 0
    """Significant bits; 0 if unknown."""
    modality: str = "unknown"
    body_part: str = "unknown"
    projection: str = "unknown"
    laterality: str = "unknown"
    """Words of the closed vocabularies of `pixels.vocabulary`."""
    spacing: tuple[float, ...] | None = None
    """Millimetres between samples, in the order of `shape`; None if unknown."""
    position: tuple[float, float, float] | None = None
    """ImagePositionPatient in millimetres."""
    direction: tuple[float, float, float, float, float, float] | None = None
    """ImageOrientationPatient: direction of a row, then of a column."""
    affine: tuple[float, ...] | None = None
    """Row-major 4x4 index-to-millimetre matrix (RAS+) of NIfTI volumes."""
    gantry_tilt: float = 0.0
    """Degrees."""
    slope: float = 1.0
    intercept: float = 0.0
    window_center: float | None = None
    window_width: float | None = None
    voi_lut: bool = False
    """The file carries a VOI LUT sequence or function; recorded, not applied."""
    photometric: str = "MONOCHROME2"
    transfer_syntax: str = ""
    burned_in: bool | None = None
    secondary_capture: bool = False
    localizer: bool = False
    frames: int = 1
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    image_uid: str = ""
    instance_number: int | None = None
    split: str = ""
    """The source's own split ("train", "val", "test"), where it has one."""
    labels: dict[str, float] = field(default_factory=dict)
    """Labels that travel inside the file (npz)."""


@dataclass(frozen=True)
class Problem:
    """Something that keeps a file, or a part of it, out of the cohort."""

    locator: Locator
    reason: str
    """A word of a closed list, as "truncated"; see `pixels.probe`."""
    detail: str
    """One sentence without any content of the file's text fields."""
    action: str
    """What the owner can do."""


@dataclass(frozen=True)
class NonImage:
    """A file that is well-formed but holds no image (report, SEG, dose, presentation state)."""

    locator: Locator
    kind: str
    """A word of a closed list, as "segmentation", "dose", "report", "pdf", "table", "text"."""


Found = Header | Problem | NonImage
