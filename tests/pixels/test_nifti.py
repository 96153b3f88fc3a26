"""NIfTI against nibabel."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from scoutview.pixels import geometry
from scoutview.pixels.findings import PixelError
from scoutview.pixels.headers import Header, Problem
from scoutview.pixels.probe import probe
from scoutview.pixels.read import examine, read

ASSETS = Path(__file__).parents[1] / "assets" / "nifti"
RNG = np.random.default_rng(1)
AFFINE = np.array([[0, 0, -3, 10], [-0.5, 0, 0, 20], [0, 0.7, 0, -30], [0, 0, 0, 1]], dtype=float)


def saved(path, values, kind=nibabel.Nifti1Image, affine=AFFINE, **header):
    image = kind(values, affine, dtype=values.dtype)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["hippocampus_190.nii.gz", "hippocampus_190_labelmap.nii.gz"])
def test_read__equals_nibabel_on_a_real_volume(name):
    image = nibabel.load(ASSETS / name)
    (header,) = probe(ASSETS / name)
    values = read(header.locator)
    expected = np.asarray(image.dataobj.get_unscaled())
    np.testing.assert_array_equal(values, expected.T)
    assert header.shape == values.shape
    assert header.dtype == str(values.dtype) == str(expected.dtype)
    assert header.spacing == pytest.approx(image.header.get_zooms()[::-1])
    np.testing.assert_allclose(np.reshape(header.affine, (4, 4)), image.affine)
    assert geometry.orientation_code(header.affine) == "".join(nibabel.aff2axcodes(image.affine))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_read__keeps_stored_types(tmp_path, dtype, kind, suffix):
    values = RNG.integers(0, 200, (4, 5, 6)).astype(dtype)
    (header,) = probe(saved(tmp_path / f"v{suffix}", values, kind))
    got = read(header.locator)
    np.testing.assert_array_equal(got, values.T)
    assert got.dtype == values.dtype
    assert header.spacing == pytest.approx((3, 0.7, 0.5))
    assert geometry.orientation_code(header.affine) == "PSL"


def test_probe__does_not_need_the_name(tmp_path):
    path = saved(tmp_path / "v.nii.gz", np.zeros((3, 4, 5), np.int16))
    renamed = path.rename(tmp_path / "v.png")
    assert [found.source for found in probe(renamed)] == ["nifti"]


def test_header__records_scaling_without_applying_it(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(2.0, -5.0)
    nibabel.save(image, tmp_path / "v.nii")
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    slope = np.frombuffer(raw[112:120], "<f4")
    (header,) = probe(tmp_path / "v.nii")
    assert (header.slope, header.intercept) == tuple(slope)
    scaled = read(header.locator) * header.slope + header.intercept
    np.testing.assert_allclose(scaled, nibabel.load(tmp_path / "v.nii").get_fdata().T)


def test_probe__big_endian_reads_the_same(tmp_path):
    values = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(values, AFFINE, header), tmp_path / "v.nii")
    (found,) = probe(tmp_path / "v.nii")
    got = read(found.locator)
    np.testing.assert_array_equal(got, values.T)
    assert got.dtype == np.dtype("int16")


def test_probe__time_points_are_volumes_of_their_own(tmp_path):
    values = RNG.integers(0, 99, (3, 4, 5, 2)).astype(np.int16)
    found = list(probe(saved(tmp_path / "v.nii.gz", values)))
    assert [h.locator.item for h in found] == [0, 1]
    assert all(h.shape == (5, 4, 3) for h in found)
    for time, header in enumerate(found):
        np.testing.assert_array_equal(read(header.locator), values[..., time].T)


def test_read__colour(tmp_path):
    rgb = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    values = RNG.integers(0, 255, (3, 4, 5, 3), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(values.copy().view(rgb)[..., 0], AFFINE), tmp_path / "v.nii")
    (header,) = probe(tmp_path / "v.nii")
    assert (header.channels, header.shape) == (3, (5, 4, 3))
    np.testing.assert_array_equal(read(header.locator), values.transpose(2, 1, 0, 3))


def test_read__wide_types_are_narrowed_only_when_they_fit(tmp_path):
    values = np.arange(24, dtype=np.float64).reshape(2, 3, 4) / 4
    (header,) = probe(saved(tmp_path / "f.nii", values))
    assert header.dtype == "float32"
    np.testing.assert_array_equal(read(header.locator), values.T.astype(np.float32))
    big = np.full((2, 3, 4), 2**31, dtype=np.uint32)
    (header,) = probe(saved(tmp_path / "u.nii", big))
    with pytest.raises(PixelError, match="does not fit"):
        read(header.locator)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_probe__finds_truncation(tmp_path, suffix, part):
    values = RNG.integers(0, 4000, (20, 20, 20)).astype(np.int16)
    path = saved(tmp_path / f"v{suffix}", values)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    (found,) = probe(path)
    assert isinstance(found, Problem)
    assert found.reason == "truncated"


def test_probe__five_dimensions_are_unsupported(tmp_path):
    path = saved(tmp_path / "v.nii", np.zeros((2, 3, 4, 1, 3), np.float32))
    assert [found.reason for found in probe(path)] == ["unsupported"]


def test_probe__gzip_of_something_else_is_unsupported(tmp_path):
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(b"hello" * 1000))
    assert [found.reason for found in probe(tmp_path / "v.nii.gz")] == ["unsupported"]


def test_header__a_spacing_of_zero_is_reported(tmp_path):
    path = saved(tmp_path / "v.nii", np.zeros((2, 3, 4), np.uint8))
    raw = bytearray(path.read_bytes())
    raw[80:84] = bytes(4)  # pixdim[1]
    path.write_bytes(raw)
    finding, header = sorted(probe(path), key=lambda found: isinstance(found, Header))
    assert finding.reason == "invalid_spacing"
    assert header.spacing is None


def test_examine__finds_undefined_pixels(tmp_path):
    values = np.zeros((2, 3, 4), np.float32)
    values[0, 0, 0] = np.nan
    (header,) = probe(saved(tmp_path / "v.nii", values))
    finding = examine(read(header.locator), header.locator)
    assert finding.reason == "nan_pixels"
    assert examine(np.zeros(3, np.float32), header.locator) is None
