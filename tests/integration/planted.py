"""DICOM files, folders and tables full of secrets, and a search through everything written."""

import base64
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.index.dicoms import dataset

NAME, DATE, STREET, NUMBER = "QUIXOTE", "19470313", "Windmuehlgasse", "73119284"
TIME, AGE = "073119.284", "073Y"
SECRETS = (NAME, DATE, STREET, NUMBER, TIME, "1947-03-13", "13.03.1947", "Sancho", "555-0199")
"""Searched for without regard to case."""

_AGE = re.compile(rf"(?<![0-9A-Za-z]){AGE}(?![0-9A-Za-z])", re.IGNORECASE)
_NUMBERS = frozenset((".bin", ".npy", ".png", ".safetensors"))
"""Files of so many random bytes that four letters stand in one by chance."""

TEXT = {
    "AE": NAME,
    "AS": AGE,
    "CS": NAME,
    "DA": DATE,
    "DS": NUMBER,
    "DT": f"{DATE}120000",
    "IS": NUMBER,
    "LO": f"{NAME}, {STREET} 7, {DATE}",
    "LT": f"{NAME} of {STREET}, 13.03.1947",
    "PN": f"{NAME}^Sancho",
    "SH": f"{NAME} 555-0199",
    "ST": f"{NAME} of {STREET}",
    "TM": TIME,
    "UC": f"{NAME} of {STREET}",
    "UI": f"1.2.3.{DATE}.{NUMBER}",
    "UR": f"http://{NAME}/{DATE}",
    "UT": f"{NAME} of {STREET}, 1947-03-13",
}
"""A secret in the form of every value representation that holds text."""

READABLE = frozenset(
    {
        "Modality",
        "ImageType",
        "PhotometricInterpretation",
        "NumberOfFrames",
        "RescaleSlope",
        "RescaleIntercept",
        "WindowCenter",
        "WindowWidth",
        "PixelSpacing",
        "ImagerPixelSpacing",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "SliceThickness",
    }
)
"""Fields without which a file would be no image; their text is checked in tests/index."""


def plant(ds: Dataset, *, keep: frozenset[str] = frozenset()) -> None:
    """Put a secret into every text field of the standard, retired ones too, and private ones."""
    for tag, (representation, *_rest, keyword) in DicomDictionary.items():
        text = TEXT.get(representation)
        if tag >> 16 not in (0x0000, 0x0002) and text and keyword and keyword not in keep:
            ds.add_new(tag, representation, text)
    block = ds.private_block(0x0019, NAME, create=True)
    for offset, (representation, text) in enumerate(TEXT.items()):
        block.add_new(offset, representation, text)


PIXELS = bytes(i % 251 for i in range(28 * 28))
"""Stand in the template where a radiograph's pixels will be."""


def template() -> bytes:
    """A radiograph as DICOM with secrets on top, nested twice, and in private tags."""
    inner, middle = Dataset(), Dataset()
    plant(inner)
    plant(middle)
    middle.add_new(0x00081140, "SQ", Sequence([inner]))  # Referenced Image Sequence
    ds = dataset(
        Modality="DX",
        ImageType=["ORIGINAL", "PRIMARY"],
        Rows=28,
        Columns=28,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=PIXELS,
        RescaleIntercept=0,
    )
    plant(ds, keep=READABLE)
    ds.add_new(0x00081115, "SQ", Sequence([middle]))  # Referenced Series Sequence
    ds.private_block(0x0019, NAME).add_new(0x99, "SQ", Sequence([inner]))
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientID = f"{NAME}-900"
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(ds, keyword, f"1.2.3.{DATE}.{len(keyword)}.900")
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom dislikes what is planted
        ds.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def radiograph(blank: bytes, pixels: np.ndarray, number: int) -> bytes:
    """The template with a real radiograph, of another patient."""
    assert pixels.shape == (28, 28)
    filled = blank.replace(PIXELS, pixels.tobytes()).replace(b"-900", f"-{number:03d}".encode())
    return filled.replace(b".900", f".{100 + number}".encode())


def write_sources(folder: Path, images: np.ndarray, labels: np.ndarray) -> tuple[Path, Path]:
    """Write files that hold and are named with secrets, and a label table with names as ids.

    Returns:
        The folder of scans, and the table.
    """
    place = folder / f"{NAME}_{DATE}" / STREET
    place.mkdir(parents=True)
    blank = template()
    encoded = [radiograph(blank, image, number) for number, image in enumerate(images)]
    for number, content in enumerate(encoded[:-4]):
        (place / f"{NAME} {number} {DATE}.dcm").write_bytes(content)
    with zipfile.ZipFile(place / f"{NAME}.zip", "w") as archive:
        for number, content in enumerate(encoded[-4:]):
            archive.writestr(f"{STREET}/{NAME}{number}.dcm", content)
        archive.writestr(f"{NAME}/bad.dcm", encoded[0][:300])
    (place / f"{NAME}_cut.dcm").write_bytes(encoded[0].replace(b"-000", b"-999")[:-40])
    (place / f"{NAME}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + NAME.encode())
    (place / f"{STREET}.txt").write_text(f"{NAME} lives in {STREET}")
    table = folder / f"{NAME}_labels.csv"
    pd.DataFrame(
        {
            "who": [f"{NAME}-{number:03d}" for number in range(len(images))],
            "pneumonia": labels,
            "remark": f"{NAME}^Sancho, {STREET}",
        }
    ).to_csv(table, index=False)
    return folder / f"{NAME}_{DATE}", table


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and all readable content of every file, compressed parts in clear."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        yield name, name
        if path.is_file():
            yield name, path.read_bytes().decode("latin-1")
            yield from ((name, text) for text in _unpacked(path))


def _unpacked(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield str(table.schema.metadata)
        yield from (f"{column}: {table[column].to_pylist()}" for column in table.column_names)
    elif path.suffix == ".safetensors":
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        yield json.dumps(header, ensure_ascii=False)
    elif path.suffix == ".png":
        yield _metadata(path.read_bytes())
    elif path.suffix == ".html":
        text = path.read_text(encoding="utf-8")
        for kind, content in re.findall(r"data:image/([a-z+]+);base64,([A-Za-z0-9+/=]+)", text):
            image = base64.b64decode(content)
            yield image.decode("latin-1")
            if kind in ("png", "jpeg", "webp"):
                yield _metadata(image)


def _metadata(encoded: bytes) -> str:
    """Text chunks and EXIF of an image, decompressed."""
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        return f"{image.info} {dict(image.getexif())}"


def secrets_in(text: str, name: str = "") -> list[str]:
    """Name the secrets that stand in a text; the age not in files of pixels and weights."""
    lowered = text.lower()
    found = [secret for secret in SECRETS if secret.lower() in lowered]
    if Path(name).suffix not in _NUMBERS and _AGE.search(text):
        found.append(AGE)
    return found
