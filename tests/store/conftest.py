"""Real cohorts for the store: indexed PNG, NIfTI and npz files."""

from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest

from scoutview.index.build import build_cohort
from scoutview.index.cohort import Cohort
from scoutview.index.config import IndexConfig

PNEUMONIA = Path(__file__).parents[2] / "src/scoutview/demo_data/pneumoniamnist.npz"


def texture(shape: tuple[int, ...], seed: int, peak: int = 60000) -> np.ndarray:
    """Smooth random pixels, uint16, different for every seed."""
    values = np.random.default_rng(seed).normal(size=shape)
    for axis in range(len(shape)):
        values = np.cumsum(values, axis=axis)
    values -= values.min()
    return (values / values.max() * peak).astype(np.uint16)


def write_png(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / name), pixels)


def write_nifti(folder: Path, name: str, pixels: np.ndarray) -> None:
    """Write (D, H, W) so that the reader gives it back in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(pixels.T, np.diag([1, 1, 3, 1])), folder / name)


def index(source: Path, out: Path, **settings: object) -> Cohort:
    return build_cohort([source], out, IndexConfig(workers=1, **settings))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Six 16-bit images of 40x56, two volumes of 6x48x40."""
    folder = tmp_path / "sources"
    for i in range(6):
        write_png(folder, f"image{i}.png", texture((40, 56), i))
    for i in range(2):
        write_nifti(folder, f"volume{i}.nii", texture((6, 48, 40), 10 + i, 3000).astype(np.int16))
    return folder


@pytest.fixture
def cohort(sources: Path, tmp_path: Path) -> Cohort:
    return index(sources, tmp_path / "cohort")


@pytest.fixture(scope="session")
def pneumonia(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return index(PNEUMONIA, tmp_path_factory.mktemp("pneumonia") / "cohort")


Originals = Callable[[Cohort], dict[str, np.ndarray]]
