import numpy as np
import pytest
from PIL import Image

from scoutview.base.errors import ConfigError, DataError, RunError
from scoutview.results.contact_sheet import contact_sheet


def size_of_dark_area(path):
    """Height and width, in pixels, of what is darker than paper."""
    with Image.open(path) as picture:
        dark = np.asarray(picture.convert("L")) < 140
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@pytest.mark.parametrize(("spacing", "ratio"), [(None, 0.5), ((2.0, 1.0), 1.0), ((3.0, 1.0), 1.5)])
def test_contact_sheet__keeps_true_proportions(tmp_path, spacing, ratio):
    path = contact_sheet(
        tmp_path / "s.png", [np.full((20, 40), 0.5, np.float32)], [""], spacings=[spacing]
    )
    tall, wide = size_of_dark_area(path)
    assert tall / wide == pytest.approx(ratio, rel=0.02)


def test_contact_sheet__shows_black_as_black_whatever_the_range(tmp_path):
    image = np.full((16, 16), 0.4, np.float32)
    path = contact_sheet(tmp_path / "s.png", [image], [""])
    with Image.open(path) as picture:
        middle = np.asarray(picture.convert("L"))[picture.height // 2, picture.width // 2]
    assert middle == round(0.4 * 255)


def test_contact_sheet__wraps_into_rows(tmp_path):
    images = [np.zeros((8, 8), np.float32)] * 7
    one = Image.open(contact_sheet(tmp_path / "a.png", images[:3], ["x"] * 3, columns=3))
    three = Image.open(contact_sheet(tmp_path / "b.png", images, ["x"] * 7, columns=3))
    assert three.width == one.width
    assert three.height > 2.5 * one.height


GREY = np.full((8, 8), 0.5, np.float32)


def test_contact_sheet__replaces_an_earlier_sheet(tmp_path):
    first = contact_sheet(tmp_path / "s.PNG", [GREY], ["a"]).read_bytes()
    assert contact_sheet(tmp_path / "s.PNG", [GREY], ["b"]).read_bytes() != first


@pytest.mark.parametrize("what", ["scan", "text", "empty", "folder"])
def test_contact_sheet__replaces_nothing_else(tmp_path, what):
    place = tmp_path / "0000.png"
    if what == "folder":
        place.mkdir()
    elif what == "scan":
        Image.fromarray(np.full((32, 32), 90, np.uint8)).save(place)
    else:
        place.write_bytes(b"id,label\n" if what == "text" else b"")
    before = place.is_file() and place.read_bytes()
    with pytest.raises(RunError, match=r"0000\.png exists and is no contact sheet"):
        contact_sheet(place, [GREY], [""])
    assert (place.is_file() and place.read_bytes()) == before


@pytest.mark.parametrize("name", [".", "..", "labels.csv", "sheet", "sheet.jpg"])
def test_contact_sheet__must_end_in_png(name):
    with pytest.raises(ConfigError, match=r"must end in \.png, got"):
        contact_sheet(name, [GREY], [""])


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        ([], [], "needs images"),
        ([np.zeros((4, 4), np.float32)], [], "one caption"),
        ([np.full((4, 4), 2, np.float32)], ["x"], r"lie in \[0, 1\]"),
        ([np.zeros((4, 4, 4), np.float32)], ["x"], r"must be \(H, W\)"),
    ],
)
def test_contact_sheet__refuses_what_it_cannot_show(tmp_path, images, captions, message):
    with pytest.raises(DataError, match=message):
        contact_sheet(tmp_path / "s.png", images, captions)
    assert not list(tmp_path.iterdir())
