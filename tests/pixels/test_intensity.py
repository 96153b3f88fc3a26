"""Windows against pydicom and against the equations written out."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from scoutview.base.errors import DataError
from scoutview.pixels.intensity import (
    FileWindow,
    FullRange,
    Percentiles,
    Stored,
    Window,
    default_policy,
    limits,
    to_unit,
    to_unit16,
)

RNG = np.random.default_rng(0)
CT = RNG.integers(-1500, 3000, (64, 48)).astype(np.int16)


@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (300, 2)])
def test_to_unit__window_is_linear_between_its_edges(center, width):
    expected = np.clip((CT.astype(float) * 2 - 1024 - center) / width + 0.5, 0, 1)
    policy = Window(center=center, width=width)
    unit = to_unit(CT, policy=policy, stored=Stored(slope=2, intercept=-1024))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, expected, atol=1e-6)


@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (300, 2)])
def test_to_unit__file_window_equals_pydicom(center, width):
    dataset = Dataset()
    dataset.WindowCenter, dataset.WindowWidth = center, width
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored, dataset.PixelRepresentation = 12, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -24
    shown = apply_windowing(CT.astype(float) - 24, dataset)
    expected = (shown - shown.min()) / (shown.max() - shown.min())
    stored = Stored(intercept=-24, window_center=center, window_width=width)
    unit = to_unit(CT, policy=FileWindow(), stored=stored)
    np.testing.assert_allclose(unit, expected, atol=1e-6)


def test_to_unit__a_file_without_window_gets_the_named_policy():
    policy = FileWindow(without=Percentiles(low=5, high=95))
    np.testing.assert_array_equal(
        to_unit(CT, policy=policy), to_unit(CT, policy=Percentiles(low=5, high=95))
    )


def test_to_unit__monochrome1_is_inverted_and_nothing_else():
    policy = Window(center=0, width=1000)
    plain = to_unit(CT, policy=policy)
    np.testing.assert_allclose(
        to_unit(CT, policy=policy, stored=Stored(photometric="MONOCHROME1")), 1 - plain, atol=1e-6
    )
    colour = to_unit(CT, policy=policy, stored=Stored(photometric="RGB"))
    np.testing.assert_array_equal(colour, plain)


@pytest.mark.parametrize(
    ("dtype", "bits", "low", "high"),
    [("uint8", 8, 0, 255), ("uint16", 12, 0, 4095), ("uint16", 0, 0, 65535),
     ("int16", 12, -2048, 2047), ("int16", 16, -32768, 32767)],
)  # fmt: skip
def test_full_range__is_what_the_stored_bits_hold(dtype, bits, low, high):
    values = np.array([[low, high]], dtype=dtype)
    stored = Stored(bits_stored=bits)
    assert limits(values, policy=FullRange(), stored=stored) == (low, high)
    unit = to_unit(values, policy=FullRange(), stored=stored)
    np.testing.assert_array_equal(unit, [[0, 1]])


def test_percentiles__are_numpys_and_ignore_undefined_pixels():
    values = RNG.normal(size=(50, 50)).astype(np.float32)
    low, high = np.percentile(values, (1, 99))
    spoiled = values.copy().ravel()
    spoiled = np.append(spoiled, [np.nan, np.inf])
    found = limits(spoiled, policy=Percentiles(low=1, high=99))
    assert found == pytest.approx((low, high))
    unit = to_unit(spoiled, policy=Percentiles(low=1, high=99))
    assert np.isfinite(unit).all()
    assert unit[-2] == 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
@pytest.mark.parametrize(("low", "high"), [(0, 100), (0.5, 99.5), (33, 66.6)])
def test_percentiles__of_integers_equal_numpys(dtype, low, high):
    kind = np.iinfo(dtype)
    values = RNG.integers(max(kind.min, -900), min(kind.max, 3000), (37, 41)).astype(dtype)
    found = limits(values, policy=Percentiles(low=low, high=high))
    assert found == pytest.approx(tuple(np.percentile(values, (low, high))))


@pytest.mark.parametrize("policy", [Window(center=-500, width=900), Percentiles(), FullRange(),
                                    FileWindow()])  # fmt: skip
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("slope", [1.0, -2.5])
def test_to_unit16__equals_the_slow_form(policy, photometric, dtype, slope):
    if dtype == "float32" and isinstance(policy, FullRange):
        pytest.skip("floats have no full range")
    values = RNG.integers(0, 256, (3, 40, 30)).astype(dtype)
    stored = Stored(slope, -1024.0, 0, "", photometric, window_center=-900.0, window_width=100.0)
    slow = to_unit(values, policy=policy, stored=stored)
    fast = to_unit16(values, policy=policy, stored=stored)
    full = 255 if fast.dtype == np.uint8 else 65535
    assert np.abs(fast.astype(float) - slow.astype(float) * full).max() <= 1.0


def test_to_unit__a_negative_slope_turns_dark_to_bright_under_every_policy():
    values = np.array([[10, 20, 30]], dtype=np.uint8)
    for policy in (Window(center=-20, width=40), Percentiles(), FullRange()):
        unit = to_unit(values, policy=policy, stored=Stored(slope=-1.0))[0]
        assert unit[0] > unit[1] > unit[2]


def test_to_unit16__eight_bits_stay_eight_bits():
    values = RNG.integers(0, 256, (20, 20), dtype=np.uint8)
    kept = to_unit16(values, policy=FullRange(), stored=Stored(bits_stored=8))
    np.testing.assert_array_equal(kept, values)
    assert kept.dtype == np.uint8


def test_to_unit16__one_pair_of_limits_serves_all_slices():
    volume = RNG.integers(0, 4000, (4, 16, 16)).astype(np.uint16)
    pair = limits(volume, policy=Percentiles())
    whole = to_unit16(volume, policy=Percentiles())
    for i in range(4):
        part = to_unit16(volume[i], policy=Percentiles(), at=pair)
        np.testing.assert_array_equal(part, whole[i])


def test_to_unit16__colour_keeps_its_channels():
    values = RNG.integers(0, 65536, (8, 9, 3)).astype(np.uint16)
    kept = to_unit16(values, policy=FullRange(), stored=Stored(photometric="RGB"))
    np.testing.assert_array_equal(kept, values)


def test_to_unit__a_constant_image_is_black():
    values = np.full((4, 4), 7, dtype=np.int16)
    assert to_unit(values, policy=Percentiles()).max() == 0
    assert to_unit16(values, policy=Percentiles()).max() == 0


@pytest.mark.parametrize(
    ("policy", "stored"),
    [
        (FullRange(), Stored(slope=0.0)),
        (FullRange(), Stored(slope=float("nan"))),
        (FileWindow(), Stored(window_center=float("nan"), window_width=10.0)),
    ],
)
def test_to_unit__refuses_what_cannot_work(policy, stored):
    with pytest.raises(DataError):
        to_unit(CT, policy=policy, stored=stored)


def test_to_unit__floats_have_no_full_range():
    with pytest.raises(DataError, match="percentiles"):
        to_unit(CT.astype(np.float32), policy=FullRange())


def test_default_policy__fits_the_modality():
    assert default_policy("CT", "int16") == Window(center=40, width=400)
    assert default_policy("CR", "uint16") == FileWindow()
    assert default_policy("MR", "uint16") == Percentiles()
    assert default_policy("unknown", "uint8") == FullRange()
