"""PNG, JPEG and TIFF: what was written comes back."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scoutview.pixels.headers import Header, Problem
from scoutview.pixels.probe import probe
from scoutview.pixels.read import read

ASSETS = Path(__file__).parents[1] / "assets" / "rasters"
RNG = np.random.default_rng(2)


def written(path, values):
    assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(13, 17), (13, 17, 3)])
def test_read__is_bit_equal(tmp_path, suffix, dtype, shape):
    values = RNG.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    (header,) = probe(written(tmp_path / f"image{suffix}", values))
    assert header.shape == (13, 17)
    assert header.channels == (3 if len(shape) == 3 else 1)
    assert header.dtype == dtype
    assert header.bits_stored == 8 * np.dtype(dtype).itemsize
    got = read(header.locator)
    np.testing.assert_array_equal(got, values)
    assert got.dtype == values.dtype


@pytest.mark.parametrize("name", ["radiograph.png", "radiograph_labelmap.png"])
def test_read__equals_opencv_on_real_images(name):
    (header,) = probe(ASSETS / name)
    expected = cv2.imread(str(ASSETS / name), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read(header.locator), expected)
    assert (header.shape, header.dtype) == ((524, 640), "uint8")


@pytest.mark.parametrize("shape", [(32, 24), (32, 24, 3)])
def test_read__jpeg_equals_opencv(tmp_path, shape):
    smooth = cv2.GaussianBlur(RNG.integers(0, 256, shape).astype(np.uint8), (0, 0), 3)
    path = written(tmp_path / "image.jpg", smooth)
    expected = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    expected = expected[..., ::-1] if expected.ndim == 3 else expected
    (header,) = probe(path)
    assert np.abs(read(header.locator).astype(int) - expected.astype(int)).max() <= 1


def test_read__float_tiff(tmp_path):
    values = RNG.normal(size=(9, 8)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "image.tif")
    (header,) = probe(tmp_path / "image.tif")
    assert header.dtype == "float32"
    np.testing.assert_array_equal(read(header.locator), values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_read__pages_of_a_tiff_are_frames(tmp_path, dtype):
    pages = RNG.integers(0, 255, (3, 9, 8)).astype(dtype)
    images = [Image.fromarray(page) for page in pages]
    images[0].save(tmp_path / "image.tif", save_all=True, append_images=images[1:])
    (header,) = probe(tmp_path / "image.tif")
    assert (header.shape, header.frames) == ((3, 9, 8), 3)
    np.testing.assert_array_equal(read(header.locator), pages)


def test_read__palette_as_colours_or_as_labels(tmp_path):
    labels = RNG.integers(0, 3, (9, 8)).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "image.png")
    (header,) = probe(tmp_path / "image.png")
    assert header.channels == 3
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(read(header.locator), colours[labels])
    np.testing.assert_array_equal(read(header.locator, palette=False), labels)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "1", "CMYK"])
def test_header__announces_what_read_gives(tmp_path, mode):
    grey = Image.fromarray(RNG.integers(0, 256, (9, 8, 3)).astype(np.uint8)).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    grey.save(path)
    (header,) = probe(path)
    got = read(header.locator)
    assert got.shape == header.shape + ((3,) if header.channels == 3 else ())
    assert str(got.dtype) == header.dtype


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.98])
def test_probe__finds_truncation(tmp_path, suffix, part):
    values = RNG.integers(0, 256, (60, 70)).astype(np.uint8)
    path = written(tmp_path / f"image{suffix}", values)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    (found,) = probe(path)
    assert isinstance(found, Problem)
    assert found.reason in ("truncated", "damaged")


def test_probe__bytes_after_a_jpeg_do_no_harm(tmp_path):
    path = written(tmp_path / "image.jpg", np.zeros((16, 16), np.uint8))
    path.write_bytes(path.read_bytes() + bytes(10_000))
    assert isinstance(next(probe(path)), Header)
