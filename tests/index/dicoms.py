"""Generated DICOM files: one template written by pydicom, patched in place, thousands a second."""

import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

_IMAGE = "1.2.826.0.1.7777.1.100000000"
_SERIES = "1.2.826.0.1.7777.2.100000000"
_PATIENT = "PAT00000000"
_PLACE = "00000.00"


def dataset(**values) -> FileDataset:
    """A small axial CT slice; keyword arguments replace or add elements."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = values.get("SOPInstanceUID", _IMAGE)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    settings = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": _IMAGE,
        "StudyInstanceUID": _SERIES + ".1",
        "SeriesInstanceUID": _SERIES,
        "PatientID": _PATIENT,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": 1,
        "ImagePositionPatient": ["0", "0", _PLACE],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5, 0.5],
        "SliceThickness": 2,
        "Rows": 16,
        "Columns": 16,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PixelData": np.arange(256, dtype="<i2").tobytes(),
    }
    for name, value in (settings | values).items():
        setattr(ds, name, value)
    return ds


def encoded(**values) -> bytes:
    stream = BytesIO()
    dataset(**values).save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def slice_bytes(template: bytes, *, image: int, series: int, patient: int, z: float) -> bytes:
    """The template with other numbers of the same length."""
    return (
        template.replace(_IMAGE.encode(), f"{_IMAGE[:-8]}{image:08d}".encode())
        .replace(_SERIES.encode(), f"{_SERIES[:-8]}{series:08d}".encode())
        .replace(_PATIENT.encode(), f"PAT{patient:08d}".encode())
        .replace(b"0\\0\\" + _PLACE.encode(), f"0\\0\\{z:08.2f}".encode())
    )


def write_series(folder: Path, series: int, slices: int, *, patient: int | None = None) -> None:
    """An even stack of slices, 2 mm apart."""
    folder.mkdir(parents=True, exist_ok=True)
    template = encoded()
    for n in range(slices):
        content = slice_bytes(
            template,
            image=series * 1000 + n,
            series=series,
            patient=series if patient is None else patient,
            z=2.0 * n,
        )
        (folder / f"{n:04d}.dcm").write_bytes(content)


def _png() -> bytes:
    stream = BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(stream, "PNG")
    return stream.getvalue()


def _nifti() -> bytes:
    noise = np.random.default_rng(0).integers(0, 999, (16, 16, 16)).astype(np.int16)
    return gzip.compress(nibabel.Nifti1Image(noise, np.eye(4)).to_bytes(), mtime=0)


PNG, NIFTI = _png(), _nifti()

BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut DICOM": (lambda whole: whole[:-300], "truncated"),
    "cut DICOM header": (lambda whole: whole[:300], "truncated"),
    "DICOM without magic": (
        lambda whole: whole.replace(b"DICM", b"DIXM"),
        "unknown_format",
    ),
    "nothing": (lambda whole: b"", "empty"),
    "zeros": (lambda whole: bytes(len(whole)), "unknown_format"),
    "cut PNG": (lambda whole: PNG[: len(PNG) // 2], "truncated"),
    "PNG without header": (lambda whole: PNG[:8] + bytes(50), "damaged"),
    "cut gzip": (lambda whole: NIFTI[: len(NIFTI) // 2], "truncated"),
    "gzip of noise": (lambda whole: NIFTI[:10] + b"\xff" * 400, "damaged"),
    "zip without directory": (lambda whole: b"PK\3\4" + whole[:500], "truncated"),
}
"""Ways in which a file is broken, by what they do to a whole one, with the reason to be told."""


def write_many(
    folder: Path, count: int, *, per_series: int = 50, broken_every: int = 100
) -> dict[str, int]:
    """Many series, one broken file in `broken_every`; returns the broken files by reason."""
    template = encoded()
    broken: dict[str, int] = {}
    kinds = list(BROKEN.values())
    for n in range(count):
        series, slice_number = divmod(n, per_series)
        place = folder / f"{series // 100:03d}" / f"{series:06d}"
        if slice_number == 0:
            place.mkdir(parents=True)
        content = slice_bytes(
            template, image=n, series=series, patient=series // 3, z=2.0 * slice_number
        )
        if n % broken_every == broken_every - 1:
            breaks, reason = kinds[sum(broken.values()) % len(kinds)]
            content = breaks(content)
            broken[reason] = broken.get(reason, 0) + 1
        (place / f"{slice_number:04d}").write_bytes(content)
    return broken
