"""Slices per second into the store, by transfer syntax of the source.

Ours is `build_store` with one worker: decode, content hash, perceptual hash, quantiles, write,
sync, tables. It is paired with the floor: the same decoder alone and a plain write of what it
returns, synced once; and with `pydicom.dcmread(...).pixel_array` as installed, plus the same write.

    python benchmarks/store_build.py [--quick] [--syntax NAME] [--out FILE]
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from pairing import Report, finish, paired, parser
from scoutview.index.build import build_cohort
from scoutview.index.cohort import Cohort
from scoutview.index.config import IndexConfig
from scoutview.pixels.headers import Locator
from scoutview.pixels.read import read
from scoutview.store.build import build_store

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg_ls": JPEGLSLossless,
    "jpeg_2000": JPEG2000Lossless,
}
TARGET = 0.90


def phantom(rng: np.random.Generator) -> np.ndarray:
    """A CT-like slice of 512 px: smooth organs, noise inside the body, air around it."""
    organs = cv2.resize(rng.normal(size=(12, 12)), (512, 512), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = (x / 0.9) ** 2 + (y / 0.7) ** 2 < 1
    return np.where(body, 1024 + 80 * organs + rng.normal(0, 12, (512, 512)), 0).astype(np.uint16)


def write_dicom(path: Path, pixels: np.ndarray, syntax: str) -> None:
    """Write one slice of a series of its own."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.PatientID, data.Modality = "1", "CT"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelData = pixels.tobytes()
    if syntax != ExplicitVRLittleEndian:
        data.compress(syntax, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)


def written(decode: Callable[[str], np.ndarray], paths: list[str], target: Path) -> float:
    """Decode and write, nothing else."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for path in paths:
        os.write(fd, np.ascontiguousarray(decode(path)).data)
    os.fsync(fd)
    os.close(fd)
    return len(paths)


def measure(name: str, folder: Path, count: int, rounds: int) -> Report:
    """Time one transfer syntax."""
    rng = np.random.default_rng(0)
    source = folder / "source"
    source.mkdir(parents=True)
    for i in range(count):
        write_dicom(source / f"{i:05}.dcm", phantom(rng), SYNTAXES[name])
    cohort = build_cohort([source], folder / "cohort", IndexConfig(workers=1))
    paths = [str(path) for path in sorted(source.iterdir())]
    check(cohort, folder)
    numbers = itertools.count()

    def ours() -> float:
        place = folder / f"store{next(numbers)}"
        store = build_store(cohort, workers=1, folder=place)
        shutil.rmtree(place)
        return len(store)

    report = paired(
        f"store_build ({name})",
        f"slices of 512 px uint16, {count} a round, one worker",
        {
            "build_store": ours,
            "same decoder + write": lambda: written(
                lambda path: read(Locator(path)), paths, folder / "floor.bin"
            ),
            "pydicom + write": lambda: written(
                lambda path: pydicom.dcmread(path).pixel_array, paths, folder / "floor.bin"
            ),
        },
        rounds=rounds,
        targets={"same decoder + write": TARGET},
    )
    shutil.rmtree(folder)
    return report


def check(cohort: Cohort, folder: Path) -> None:
    """Stop unless the store holds what pydicom reads."""
    store = build_store(cohort, workers=1, folder=folder / "checked")
    for row, image_id in enumerate(cohort.table["image_id"][:3]):
        path = cohort.locators(image_id)[0].path
        assert np.array_equal(store.read(row), pydicom.dcmread(path).pixel_array)


def main() -> None:
    options: Any = parser(__doc__)
    options.add_argument("--syntax", choices=SYNTAXES, action="append")
    arguments = options.parse_args()
    cv2.setNumThreads(1)
    for name in arguments.syntax or SYNTAXES:
        count = 128 if arguments.quick else 512
        with tempfile.TemporaryDirectory() as folder:
            report = measure(name, Path(folder) / "work", count, arguments.rounds)
        out = Path(arguments.out) if arguments.out else None
        finish(report, str(out.with_stem(f"{out.stem}_{name}")) if out else None)


if __name__ == "__main__":
    main()
