"""What a file is: content decides, and nothing that is broken ever raises."""

import io
import json
import os
import pickle
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from scoutview.pixels import archive
from scoutview.pixels.findings import REASONS, PixelError, problem
from scoutview.pixels.headers import Header, Locator, NonImage, Problem
from scoutview.pixels.probe import NON_IMAGE_KINDS, probe
from scoutview.pixels.read import read

ASSETS = Path(__file__).parents[1] / "assets"
CT = ASSETS / "dicom_zoo" / "files" / "CT_small.dcm"
SAMPLES = [
    CT,
    ASSETS / "dicom_zoo" / "files" / "MR_small_RLE.dcm",
    ASSETS / "dicom_zoo" / "files" / "MR_small_bigendian.dcm",
    ASSETS / "dicom_zoo" / "files" / "image_dfl.dcm",
    ASSETS / "dicom_zoo" / "files" / "liver_1frame.dcm",
    ASSETS / "nifti" / "hippocampus_190_labelmap.nii.gz",
    ASSETS / "rasters" / "radiograph_labelmap.png",
]


def only(path):
    (found,) = probe(path)
    return found


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%PDF-1.7\n", "pdf"),
        (b"id,label\n1,0\n2,1\n", "table"),
        (b"id;label\r\n1;0\r\n", "table"),
        (json.dumps({"a": [1, 2]}).encode(), "json"),
        (b"[" + b'{"name": "value"}, ' * 2000, "json"),
        (b"<?xml version='1.0'?><annotation/>", "xml"),
        ("Thorax unauffällig.\nKein Erguss.".encode(), "text"),
        ("Größe 1,5 cm".encode("latin-1"), "text"),
        ("id,label\n1,0\n".encode("utf-16"), "table"),
        (b"\0\0\0\x01Bud1" + bytes(20), "system"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "document"),
    ],
)
def test_probe__counts_non_images_by_kind(tmp_path, content, kind):
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    assert only(path) == NonImage(Locator(str(path)), kind)
    assert kind in NON_IMAGE_KINDS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (bytes(2000), "unknown_format"),
        (os.urandom(7) + b"\0\x01\x02" * 500, "unknown_format"),
        (b"\x89HDF\r\n\x1a\n", "unsupported"),
        (b"GIF89a" + bytes(20), "unsupported"),
        (b"\x93NUMPY\x01\0", "unsupported"),
        (b"\x1f\x8b" + bytes(50), "damaged"),
        (b"PK\x03\x04" + bytes(50), "truncated"),
    ],
)
def test_probe__everything_else_is_a_problem_with_an_action(tmp_path, content, reason):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    found = only(path)
    assert isinstance(found, Problem)
    assert (found.reason, found.action) == (reason, REASONS[reason])


def test_probe__a_text_that_begins_like_a_bitmap_is_a_text(tmp_path):
    (tmp_path / "x").write_bytes(b"BMI was not noted.\n")
    assert only(tmp_path / "x").kind == "text"


def test_probe__missing_files_folders_and_pipes_are_problems(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        assert only(path).reason == "unreadable"


def test_probe__the_name_does_not_matter(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(CT.read_bytes())
    assert only(path).source == "dicom"


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for name, content in members.items():
            whole.writestr(name, content)
    return path


def zip_bytes(members):
    stream = io.BytesIO()
    zipped(stream, members)
    return stream.getvalue()


def test_zip__members_of_every_kind_are_found_and_read(tmp_path):
    arrays = io.BytesIO()
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    np.savez_compressed(arrays, val_images=images, val_labels=[[0], [1]])
    nifti = ASSETS / "nifti" / "hippocampus_190.nii.gz"
    radiograph = ASSETS / "rasters" / "radiograph.png"
    path = zipped(
        tmp_path / "scans.zip",
        {
            "a/ct!small 100%.dcm": CT.read_bytes(),
            "b/volume": nifti.read_bytes(),
            "c.png": radiograph.read_bytes(),
            "d.npz": arrays.getvalue(),
            "e/labels.csv": "id,label\n1,0\n",
            "f/inner.zip": zip_bytes({"deep.dcm": CT.read_bytes()}),
        },
    )
    found = list(probe(path))
    headers = [item for item in found if isinstance(item, Header)]
    assert [h.source for h in headers] == ["dicom", "nifti", "raster", "npz", "npz", "dicom"]
    assert [f.kind for f in found if isinstance(f, NonImage)] == ["table"]
    for header, original in zip(headers[:3], (CT, nifti, radiograph), strict=True):
        np.testing.assert_array_equal(read(header.locator), read(Locator(str(original))))
    assert headers[3].locator.member == "d.npz!val_images"
    np.testing.assert_array_equal(read(headers[4].locator), images[1])
    assert headers[5].locator.member == "f/inner.zip!deep.dcm"
    np.testing.assert_array_equal(read(headers[5].locator), read(Locator(str(CT))))


def test_zip__the_tilted_series_has_28_slices():
    found = list(probe(ASSETS / "ct_head" / "ct_head_tilted.zip"))
    assert len(found) == 28
    assert {header.shape for header in found} == {(128, 128)}


def test_zip__office_files_are_documents(tmp_path):
    path = zipped(tmp_path / "report.docx", {"[Content_Types].xml": "<x/>", "word/a.xml": "<x/>"})
    assert only(path).kind == "document"


def test_zip__an_empty_archive_is_a_problem(tmp_path):
    assert only(zipped(tmp_path / "x.zip", {})).reason == "empty"


def test_zip__bombs_are_refused_without_unpacking(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "SLACK", 1 << 20)
    path = zipped(tmp_path / "x.zip", {f"{i}": bytes(1 << 20) for i in range(4)})
    assert only(path).reason == "archive_too_large"


def test_zip__a_huge_member_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MEMBER_LIMIT", 1000)
    path = zipped(tmp_path / "x.zip", {"big": bytes(5000), "small.csv": "a,b\n1,2\n"})
    big, small = probe(path)
    assert big.reason == "archive_too_large"
    assert small.kind == "table"


def test_zip__nesting_has_a_bound(tmp_path):
    content = zip_bytes({"x.csv": "a,b\n1,2\n"})
    for _ in range(archive.DEPTH_LIMIT):
        content = zip_bytes({"inner.zip": content})
    (tmp_path / "x.zip").write_bytes(content)
    assert only(tmp_path / "x.zip").reason == "archive_too_deep"


def test_zip__encrypted_members_are_problems(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.dcm": CT.read_bytes()})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # local header's flags
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # directory's flags
    path.write_bytes(data)
    assert only(path).reason == "encrypted"


def test_zip__a_damaged_member_does_not_hide_the_others(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a.dcm": CT.read_bytes(), "b.dcm": CT.read_bytes()})
    data = bytearray(path.read_bytes())
    data[200:400] = os.urandom(200)
    path.write_bytes(data)
    found = list(probe(path))
    assert isinstance(found[0], Problem)
    assert isinstance(found[-1], Header)


def test_member_names__survive_any_character():
    names = ["a!b.zip", "100%!21", "plain"]
    assert archive.split(archive.join(names)) == names


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_probe__never_raises_on_cut_files(path, tmp_path):
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in rng.integers(1, len(data), 25):
        (tmp_path / "x").write_bytes(data[:size])
        for found in probe(tmp_path / "x"):
            assert isinstance(found, Header | NonImage | Problem)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_probe_and_read__survive_changed_bytes(path, tmp_path):
    rng = np.random.default_rng(1)
    original = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    outcomes = Counter()
    for _ in range(25):
        data = original.copy()
        places = rng.integers(0, min(len(data), 2000), 8)
        data[places] = rng.integers(0, 256, 8)
        (tmp_path / "x").write_bytes(data.tobytes())
        for found in probe(tmp_path / "x"):
            assert isinstance(found, Header | NonImage | Problem)
            outcomes[type(found).__name__] += 1
            if isinstance(found, Header) and np.prod(found.shape) < 1 << 22:
                try:
                    values = read(found.locator)
                except PixelError as error:
                    outcomes[error.problem.reason] += 1
                else:
                    assert values.shape[: len(found.shape)] == found.shape
    kinds = {"Header", "NonImage", "Problem"}
    assert sum(outcomes[kind] for kind in kinds) >= 25
    refused = outcomes.keys() - kinds
    assert refused <= REASONS.keys()
    assert refused or outcomes["Problem"], "some changes do damage"


@pytest.mark.parametrize("name", ["MR_small_RLE", "emri_small_RLE", "MR_small_jp2klossless",
                                  "SC_rgb_jpeg_dcmtk", "JPGExtended",
                                  "MR_small_jpeg_ls_lossless"])  # fmt: skip
def test_read__damaged_compressed_pixels_are_problems_not_crashes(name, tmp_path):
    # Some decoders panic outside of Exception, some return too few frames.
    original = np.frombuffer((CT.parent / f"{name}.dcm").read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(2)
    for size in rng.integers(1, 200, 12):
        data = original.copy()
        start = len(data) - int(rng.integers(size, len(data) // 2))
        data[start : start + size] = rng.integers(0, 256, size)
        (tmp_path / "x").write_bytes(data.tobytes())
        for found in probe(tmp_path / "x"):
            if isinstance(found, Header):
                with suppress(PixelError):
                    assert read(found.locator).shape[: len(found.shape)] == found.shape


def test_pixel_error__travels_between_processes():
    error = PixelError(problem(Locator("x"), "truncated", "Cut."))
    assert pickle.loads(pickle.dumps(error)).problem == error.problem


def test_problems__never_carry_text_of_the_file(tmp_path):
    data = CT.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"JANE.DOE.1970.01.01\0")
    (tmp_path / "x").write_bytes(data)
    for found in probe(tmp_path / "x"):
        if isinstance(found, Problem):
            assert "JANE" not in found.detail
        elif isinstance(found, Header):
            assert "JANE" not in found.transfer_syntax


def test_probe__closes_archives(tmp_path, recwarn):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("note.txt", "no image")
    list(probe(tmp_path / "a.zip"))
    assert [w for w in recwarn if w.category is ResourceWarning] == []
