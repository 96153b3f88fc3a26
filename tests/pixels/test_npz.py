"""MedMNIST files."""

import numpy as np
import pytest

import scoutview
from scoutview.pixels.findings import PixelError
from scoutview.pixels.headers import Header, Locator, Problem
from scoutview.pixels.probe import probe
from scoutview.pixels.read import read

RNG = np.random.default_rng(3)


def pneumonia():
    from pathlib import Path

    return Path(scoutview.__file__).parent / "demo_data" / "pneumoniamnist.npz"


def test_probe__pneumoniamnist_has_its_official_counts():
    found = list(probe(pneumonia()))
    assert all(isinstance(header, Header) for header in found)
    assert len(found) == 5856
    counts = {
        (split, label): sum(h.split == split and h.labels["label"] == label for h in found)
        for split in ("train", "val", "test")
        for label in (0, 1)
    }
    assert counts == {
        ("train", 0): 1214, ("train", 1): 3494, ("val", 0): 135, ("val", 1): 389,
        ("test", 0): 234, ("test", 1): 390,
    }  # fmt: skip


def test_read__rows_are_those_of_the_arrays():
    with np.load(pneumonia()) as arrays:
        for split, row in (("train", 4707), ("val", 0), ("test", 17)):
            got = read(Locator(str(pneumonia()), f"{split}_images", row))
            np.testing.assert_array_equal(got, arrays[f"{split}_images"][row])
        whole = read(Locator(str(pneumonia()), "val_images"))
        np.testing.assert_array_equal(whole, arrays["val_images"])


@pytest.mark.parametrize(
    ("shape", "one", "channels"),
    [((5, 28, 28), (28, 28), 1), ((5, 28, 28, 3), (28, 28), 3), ((5, 12, 13, 14), (12, 13, 14), 1)],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_probe__shape_tells_images_from_volumes(tmp_path, shape, one, channels, save):
    images = RNG.integers(0, 256, shape).astype(np.uint8)
    save(tmp_path / "x.npz", test_images=images, test_labels=np.eye(5, 4))
    found = list(probe(tmp_path / "x.npz"))
    assert {(h.shape, h.channels, h.split) for h in found} == {(one, channels, "test")}
    assert found[2].labels == {"label_0": 0, "label_1": 0, "label_2": 1, "label_3": 0}
    np.testing.assert_array_equal(read(found[3].locator), images[3])


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"weights": np.zeros(3)}, "unsupported"),
        ({"train_images": np.zeros((3, 4, 4)), "train_labels": np.zeros((2, 1))}, "inconsistent"),
        ({"train_images": np.zeros(3)}, "unsupported"),
        ({"train_images": np.array([{}, {}], dtype=object)}, "damaged"),
    ],
)
def test_probe__other_layouts_are_problems(tmp_path, arrays, reason):
    np.savez(tmp_path / "x.npz", **arrays)
    assert [found.reason for found in probe(tmp_path / "x.npz")] == [reason]


@pytest.mark.parametrize("part", [0.2, 0.9, 0.999])
def test_probe__finds_truncation(tmp_path, part):
    data = pneumonia().read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: int(len(data) * part)])
    (found,) = probe(tmp_path / "x.npz")
    assert isinstance(found, Problem)
    assert found.reason == "truncated"


def test_read__a_row_that_is_not_there_is_a_problem():
    with pytest.raises(PixelError):
        read(Locator(str(pneumonia()), "val_images", 10_000))
    with pytest.raises(PixelError):
        read(Locator(str(pneumonia()), "extra_images", 0))
