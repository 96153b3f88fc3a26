"""PneumoniaMNIST, which comes with the package: 5,856 paediatric chest radiographs at 28 x 28.

Yang et al., 2023, MedMNIST v2, Scientific Data 10:41, CC BY 4.0. Official split: 4,708 for
training, 524 for validation, 624 for testing. There are no patient ids.
"""

import hashlib
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from scoutview.api.index import index
from scoutview.index.config import IndexConfig
from scoutview.index.privacy import write_key

SIDE: Final = 28
"""Rows and columns of the images."""

_KEY: Final = hashlib.sha256(b"PneumoniaMNIST is public; its pseudonyms hide nothing").digest()
"""One key for everybody: pseudonyms address random views, so that results can be repeated."""


def pneumoniamnist(folder: str | Path) -> Path:
    """Index the bundled set; call it again, nothing is done twice.

    Args:
        folder: Where the cohort will be.

    Returns:
        The cohort, with the label "pneumonia" and the official split.
    """
    folder = Path(folder)
    key = folder.parent / f"{folder.name}.key"
    if not key.is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_key(key, _KEY)
    config = IndexConfig(
        label_names={"label": "pneumonia"}, modality="DX", body_part="chest", key_file=key
    )
    with as_file(files("scoutview") / "demo_data") as data:
        return index(data, folder, config=config)
