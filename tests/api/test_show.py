"""Pictures on the contact sheet against what pydicom and nibabel say of the same files."""

import importlib.resources
import io
import re
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from scoutview.api import show as module
from scoutview.api.index import index
from scoutview.api.show import show
from scoutview.api.store import store
from scoutview.api.transfer import transfer
from scoutview.base.errors import ConfigError, DataError, LeakageError, RunError
from scoutview.index.config import IndexConfig
from scoutview.store import duplicates

ASSETS = Path(__file__).parents[1] / "assets"
LEG = ASSETS / "dicom_zoo" / "files" / "RG3_J2KR.dcm"
CT = ASSETS / "ct_head" / "ct_head_tilted.zip"
MR = ASSETS / "nifti" / "hippocampus_190.nii.gz"
RADIOGRAPH = ASSETS / "rasters" / "radiograph.png"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    (folder / "in").mkdir()
    for file in (LEG, CT, MR, RADIOGRAPH):
        shutil.copy(file, folder / "in")
    return index(folder / "in", folder / "cohort", config=IndexConfig(workers=1))


@pytest.fixture
def sheet(cohort, tmp_path, monkeypatch):
    """Pictures, captions and spacings that the sheet is drawn from, by source and modality."""
    drawn = {}
    original = module.contact_sheet

    def spy(path, pictures, captions, *, spacings):
        drawn["all"] = list(zip(pictures, captions, spacings, strict=True))
        return original(path, pictures, captions, spacings=spacings)

    monkeypatch.setattr(module, "contact_sheet", spy)

    def pictures(where):
        shown = show(cohort, where=where, sheet=tmp_path / "sheet.png")
        assert shown.sheet == tmp_path / "sheet.png"
        return drawn["all"]

    return pictures


def test_sheet__ct_has_the_soft_tissue_window_in_hounsfield(sheet):
    ((picture, caption, spacing),) = sheet("modality == 'CT'")
    with zipfile.ZipFile(CT) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        slices = [pydicom.dcmread(io.BytesIO(archive.read(name))) for name in names]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    middle = slices[len(slices) // 2]
    hounsfield = middle.pixel_array * float(middle.RescaleSlope) + float(middle.RescaleIntercept)
    expected = np.clip((hounsfield - (40 - 200)) / 400, 0, 1)
    assert middle.ImageOrientationPatient[0] > 0.99, "columns grow to the patient's left already"
    np.testing.assert_allclose(picture, expected, atol=2e-3)
    assert "CT" in caption
    assert spacing == pytest.approx(tuple(map(float, middle.PixelSpacing)))
    air, brain = picture[:6, :6], picture[56:72, 56:72]
    assert air.max() == 0
    assert 0.3 < brain.mean() < 0.8


def test_sheet__monochrome1_is_turned_so_that_bone_is_bright(sheet):
    ((picture, _, _),) = sheet("photometric == 'MONOCHROME1'")
    stored = pydicom.dcmread(LEG).pixel_array.astype(float)
    assert picture.shape == stored.shape
    small = (slice(None, None, 8), slice(None, None, 8))
    assert np.corrcoef(picture[small].ravel(), stored[small].ravel())[0, 1] < -0.95
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_sheet__volumes_lie_as_radiologists_look_at_them(sheet):
    ((picture, caption, _),) = sheet("source == 'nifti'")
    image = nibabel.load(MR)
    volume = np.asarray(image.dataobj)
    code = nibabel.aff2axcodes(image.affine)
    assert set(code[:2]) <= set("RLAP"), "an axial stack"
    middle = volume[:, :, volume.shape[2] // 2]
    if code[0] == "R":
        middle = middle[::-1]  # the patient's right is on the left
    if code[1] == "A":
        middle = middle[:, ::-1]  # the front is at the top
    low, high = np.percentile(volume[:, :, volume.shape[2] // 2], [0.5, 99.5])
    expected = np.clip((middle.T - low) / (high - low), 0, 1)
    assert picture.shape == expected.shape
    assert np.corrcoef(picture.ravel(), expected.ravel())[0, 1] > 0.999
    assert f"slice {volume.shape[2] // 2 + 1} of {volume.shape[2]}" in caption


def test_sheet__eight_bit_images_keep_their_values(sheet):
    ((picture, _, spacing),) = sheet("source == 'raster'")
    with Image.open(RADIOGRAPH) as image:
        np.testing.assert_allclose(picture, np.asarray(image.convert("L")) / 255, atol=1e-6)
    assert spacing is None


def test_sheet__is_a_picture_without_text_inside(cohort, tmp_path):
    shown = show(cohort, sheet=tmp_path / "deep" / "sheet.png", images=2)
    with Image.open(shown.sheet) as image:
        assert image.format == "PNG"
        assert min(image.size) > 100
        assert set(image.info) <= {"dpi", "Software"}
        assert image.info["Software"] == "scoutview contact sheet"


def test_show__refuses_to_overwrite_a_scan_before_it_reads_any(cohort, tmp_path, monkeypatch):
    scan = shutil.copy(RADIOGRAPH, tmp_path / "0000.png")

    def refuse(*arguments, **options):
        raise AssertionError("the place is checked first")

    monkeypatch.setattr(module, "open_cohort", refuse)
    with pytest.raises(RunError, match="exists and is no contact sheet"):
        show(cohort, sheet=scan)
    assert scan.read_bytes() == RADIOGRAPH.read_bytes()
    with pytest.raises(ConfigError, match=r"must end in \.png, got '\.'"):
        show(cohort, sheet=".")


def test_show__counts_and_takes_a_part(cohort):
    shown = show(cohort)
    assert (shown.sheet, shown.originals) == (None, None)
    for word in ("modality", "CT", "CR", "dicom", "nifti", "raster", "problems"):
        assert word in shown.text
    part = show(cohort, where="source == 'nifti'").text
    assert "raster" not in part
    with pytest.raises(DataError, match="No image of 4 fits"):
        show(cohort, where="modality == 'PET'")
    with pytest.raises(ConfigError, match="Did you mean"):
        show(cohort, where="modalit == 'CT'")


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Eight real radiographs in train, of which one is also twice in val, and one moved in test."""
    folder = tmp_path_factory.mktemp("copies")
    demo = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(demo) as path, np.load(path) as whole:
        images, others = whole["train_images"][:8], whole["test_images"][:6]
    moved = np.roll(images[3], 1, axis=0)
    moved[0] = moved[1]
    arrays = {
        "train_images": images,
        "val_images": np.stack([*others[:2], images[5], images[5]]),
        "test_images": np.stack([*others[2:], moved]),
    }
    labels = {
        name.replace("images", "labels"): (np.arange(len(part)) % 2)[:, None]
        for name, part in arrays.items()
    }
    np.savez(folder / "set.npz", **arrays, **labels)
    return index(folder / "set.npz", folder / "cohort", config=IndexConfig(workers=1))


@pytest.mark.parametrize("images", [0, -3])
def test_show__needs_an_image_for_the_sheet(cohort, tmp_path, images):
    with pytest.raises(ConfigError, match=f"images must be >= 1, got {images}"):
        show(cohort, sheet=tmp_path / "s.png", images=images)
    assert not (tmp_path / "s.png").exists()


def test_show__names_copies_as_transfer_does_once_they_are_stored(copied):
    before = show(copied)
    assert "copies       not looked for: there is no store yet" in before.text
    assert before.copies is None
    store(copied, where="split == 'val'", workers=1)
    assert "the store lacks some of these images" in show(copied).text
    store(copied, workers=1)
    shown = show(copied)
    assert "copies       exact 2, near 1" in shown.text
    crossing = "1 image of train is a near copy of test images; 1 image of train is an exact copy"
    assert f"Copies of images cross the split: {crossing} of val images." in shown.text
    with pytest.raises(LeakageError, match=re.escape(crossing)):
        transfer(copied, "classification", "random", copied.parent / "study")
    splits = [sorted(pair) for pair in shown.copies[["split_a", "split_b"]].to_numpy().tolist()]
    assert sorted(splits) == [["test", "train"], ["train", "val"], ["train", "val"], ["val", "val"]]


def test_show__looks_for_copies_once(copied, monkeypatch):
    store(copied, workers=1)
    first = show(copied)
    part = show(copied, where="split == 'val'")
    assert "copies       exact 1" in part.text
    assert "cross" not in part.text

    def refuse(*arguments, **options):
        raise AssertionError("copies are known already")

    monkeypatch.setattr(duplicates, "find_duplicates", refuse)
    pd.testing.assert_frame_equal(show(copied).copies, first.copies)
    with pytest.raises(AssertionError, match="known already"):
        show(copied, where="split == 'train'")


def test_show__of_a_store_that_must_not_be_written_to(copied, monkeypatch):
    store(copied, workers=1)

    def refuse(path, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(duplicates, "atomic_writer", refuse)
    assert "copies       none" in show(copied, where="split == 'test'").text


def test_show__resolves_pseudonyms_only_on_request(cohort):
    originals = show(cohort, private=True, images=4).originals
    assert len(originals) == 4
    names = {Path(path).name for path in originals["path"]}
    assert names == {file.name for file in (LEG, CT, MR, RADIOGRAPH)}


def test_show__leaves_out_what_cannot_be_read(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    shutil.copy(RADIOGRAPH, tmp_path / "in")
    shutil.copy(MR, tmp_path / "in")
    folder = index(tmp_path / "in", tmp_path / "c", config=IndexConfig(workers=1))
    (tmp_path / "in" / RADIOGRAPH.name).unlink()
    assert show(folder, sheet=tmp_path / "s.png").sheet is not None
    assert "Left out of the contact sheet" in caplog.text
    assert str(tmp_path) not in caplog.text
    (tmp_path / "in" / MR.name).unlink()
    with pytest.raises(DataError, match="None of the chosen images can be read"):
        show(folder, sheet=tmp_path / "t.png")


def test_sample__is_spread_over_the_modalities_and_repeats(cohort):
    from scoutview.index.cohort import Cohort

    table = Cohort.open(cohort).table
    first = module._sample(table, 2, seed=3)
    assert first["modality"].nunique() == 2
    assert first["image_id"].tolist() == module._sample(table, 2, seed=3)["image_id"].tolist()
