import numpy as np
import pytest
from tests.store.conftest import index, texture, write_nifti, write_png

from scoutview.base.errors import ConfigError, DataError
from scoutview.data.samples import (
    AllSlices,
    DataConfig,
    EveryNth,
    PerVolume,
    Samples,
    slice_number,
    to_channels,
)
from scoutview.pixels.intensity import FileWindow, FullRange, Percentiles, Stored, Window, to_unit
from scoutview.store.build import build_store
from scoutview.store.rows import INVERTED


@pytest.fixture
def cohort(tmp_path):
    for i in range(3):
        write_png(tmp_path / "sources", f"image{i}.png", texture((40, 56), i))
    for i, depth in enumerate((7, 20)):
        pixels = texture((depth, 30, 26), 10 + i, 3000).astype(np.int16) - 1000
        write_nifti(tmp_path / "sources", f"volume{i}.nii", pixels)
    return index(tmp_path / "sources", tmp_path / "cohort")


@pytest.fixture
def store(cohort):
    return build_store(cohort, workers=1)


def every(samples):
    image, slices, records = samples.locate(np.arange(len(samples)))
    return image, slices, records


@pytest.mark.parametrize(
    ("policy", "count"), [(AllSlices(), 30), (EveryNth(n=5), 8), (PerVolume(n=10), 20)]
)
def test_samples__counts_slices_as_the_policy_says(store, cohort, policy, count):
    samples = Samples.of(store, cohort, DataConfig(slices=policy))
    assert len(samples) == count
    image, slices, records = every(samples)
    pairs = list(zip(image.tolist(), slices.tolist(), strict=True))
    assert len(set(pairs)) == count
    for number, slice_index, record in zip(image, slices, records, strict=True):
        record_of_row = store.record(int(samples.rows[number]))
        assert record.image_key == record_of_row.image_key
        assert (slice_index == -1) == (len(record.shape) == 2)
        assert slice_index < record.depth


@pytest.mark.parametrize(
    ("policy", "depth", "expected"),
    [
        (AllSlices(), 4, [0, 1, 2, 3]),
        (EveryNth(n=3), 9, [1, 4, 7]),
        (EveryNth(n=3), 2, [1]),
        (PerVolume(n=3), 9, [1, 4, 7]),
        (PerVolume(n=3), 2, [0, 1]),
        (PerVolume(n=4), 6, [0, 2, 3, 5]),
    ],
)
def test_slice_number__is_evenly_spaced(policy, depth, expected):
    got = [slice_number(i, depth, policy) for i in range(len(expected))]
    assert got == expected


def test_samples__takes_what_where_leaves(store, cohort):
    assert len(Samples.of(store, cohort, DataConfig(where="kind == 'image'"))) == 3
    with pytest.raises(DataError, match="No image"):
        Samples.of(store, cohort, DataConfig(where="n_slices > 100"))
    with pytest.raises(DataError, match="No image"):
        Samples.of(store, cohort, DataConfig(split="test"))


def test_samples__leaves_absent_images_out_and_keeps_targets_in_step(cohort, tmp_path):
    path = cohort.locators(cohort.table["image_id"][1])[0].path
    with open(path, "r+b") as file:
        file.truncate(100)
    store = build_store(cohort, workers=1, folder=tmp_path / "other")
    assert store.absent == 1
    samples = Samples.of(store, cohort, targets=np.arange(5))
    assert samples.targets.tolist() == [0, 2, 3, 4]
    assert 1 not in samples.rows
    with pytest.raises(DataError, match="1 of 5 images have no pixels"):
        Samples(store, np.arange(5))


@pytest.mark.parametrize(
    "policy",
    [
        FullRange(),
        Window(center=300, width=900),
        Percentiles(low=1, high=99),
        Percentiles(low=3, high=97.5),
        FileWindow(),
    ],
)
def test_image__equals_the_intensity_policy_on_the_whole_image(store, cohort, policy):
    samples = Samples.of(store, cohort, DataConfig(intensity=policy))
    assert samples.dtype() is np.uint16
    image, slices, records = every(samples)
    loose = 0.02 if isinstance(policy, Percentiles | FileWindow) else 1e-4
    for i in range(0, len(samples), 4):
        row = int(samples.rows[image[i]])
        whole = store.read(row)
        unit = to_unit(
            whole,
            policy=policy,
            stored=Stored(records[i].slope, records[i].intercept, records[i].bits),
        )
        expected = unit if slices[i] < 0 else unit[slices[i]]
        got = samples.image(records[i], int(slices[i]), row, None)
        assert got.dtype == np.uint16
        np.testing.assert_allclose(got / 65535, expected, atol=loose)
        window = (slice(3, 20), slice(5, 11))
        part = samples.image(records[i], int(slices[i]), row, window)
        np.testing.assert_array_equal(part, got[window])


def test_image__turns_monochrome1_so_that_bright_is_dense(store, cohort):
    samples = Samples.of(store, cohort, DataConfig(where="kind == 'image'", intensity=FullRange()))
    _, _, records = every(samples)
    row = int(samples.rows[0])
    upright = samples.image(records[0], -1, row, None)
    turned = samples.image(records[0]._replace(flags=records[0].flags | INVERTED), -1, row, None)
    np.testing.assert_allclose(upright.astype(int) + turned, 65535, atol=1)


def test_groups__repeat_over_slices(store, cohort):
    samples = Samples.of(store, cohort)
    _, _, records = every(samples)
    assert samples.groups().tolist() == [record.group for record in records]
    assert len(samples.groups()) == len(samples)


def test_to_channels__weighs_colours_as_itu_601():
    colour = np.zeros((2, 2, 3), dtype=np.uint8)
    colour[..., 0], colour[..., 1], colour[..., 2] = 200, 100, 50
    assert to_channels(colour, "grey")[0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert to_channels(colour, "green")[0, 0] == 100
    assert to_channels(colour[..., 0], "colour").shape == (2, 2, 3)
    with pytest.raises(ConfigError, match="colour images"):
        to_channels(colour[..., 0], "red")
