"""Energy bands: sum, identity, energies as asked for, SciPy's Gaussians, and the view engine."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from scoutview.base.errors import ConfigError, DataError
from scoutview.base.randomness import VIEWS, generator
from scoutview.views.apply import apply
from scoutview.views.draw import EnergyChange, ViewParams, draw
from scoutview.views.energy_bands import (
    BandedImage,
    decompose,
    energies,
    fit_energies,
    fit_policy,
    recombine,
)
from scoutview.views.geometry import bounding_box
from scoutview.views.pipeline import Views
from scoutview.views.policy import Augment, EnergyBands, EvalView, MultiCrop, TwoCrops
from scoutview.views.presets import medical, with_energy_bands
from scoutview.views.torch_apply import apply_batch

SIGMAS = (1.0, 2.0, 4.0, 8.0, 16.0)
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
FITTED = EnergyBands(
    probability=1.0, mean=(0.02, 0.02, 0.03, 0.04, 0.05, 0.1), std=(0.01,) * 4 + (0.02, 0.2)
)


def image(shape=(60, 72), seed=0, dtype=np.uint16):
    field = np.random.default_rng(seed).normal(size=shape)
    field = sum(ndimage.gaussian_filter(field, s) * (1 + s) for s in (0.5, 2.0, 7.0))
    field = (field - field.min()) / np.ptp(field) * 0.6 + 0.2
    return (field * np.iinfo(dtype).max).astype(dtype)


def unit(pixels):
    return pixels / np.iinfo(pixels.dtype).max


@pytest.mark.parametrize("shape", [(60, 72), (28, 28), (31, 40, 3)])
@pytest.mark.parametrize("border", ["reflect", "wrap"])
@pytest.mark.parametrize("cascaded", [True, False])
def test_bands__sum_to_the_image(shape, border, cascaded):
    pixels = unit(image(shape))
    bands = decompose(pixels, SIGMAS, border=border, cascaded=cascaded)
    assert bands.shape == (6, *shape)
    np.testing.assert_allclose(bands.sum(axis=0), pixels, atol=1e-12)


@pytest.mark.parametrize("border", ["reflect", "wrap"])
def test_bands__are_differences_of_cascaded_gaussians(border):
    pixels = unit(image((40, 28)))  # shorter than the reach of the widest Gaussian
    left = pixels
    for band, sigma in zip(decompose(pixels, SIGMAS, border=border), SIGMAS, strict=False):
        smooth = ndimage.gaussian_filter(left, sigma, mode=border, truncate=4.0)
        np.testing.assert_allclose(band, left - smooth, atol=1e-10)
        left = smooth


@pytest.mark.parametrize("residual", ["around_mean", "scale"])
def test_own_energies__give_the_image_back(residual):
    pixels = unit(image())
    bands = decompose(pixels, SIGMAS)
    own = energies(bands)
    np.testing.assert_allclose(recombine(bands, own, own, residual=residual), pixels, atol=1e-12)


def test_recombine__gives_the_energies_asked_for_and_keeps_the_brightness():
    pixels = unit(image())
    bands = decompose(pixels, SIGMAS)
    own = energies(bands)
    wanted = own * np.array([2.0, 0.5, 1.5, 1.0, 0.7, 1.2])
    changed = recombine(bands, own, wanted)
    by_hand = sum(g * b for g, b in zip(wanted / own, bands, strict=True))
    by_hand += (1 - wanted[-1] / own[-1]) * bands[-1].mean()
    np.testing.assert_allclose(changed, by_hand, atol=1e-12)
    assert recombine(bands[-1:], own[-1:], wanted[-1:]).mean() == pytest.approx(bands[-1].mean())
    to_the_letter = recombine(bands, own, wanted, residual="scale")
    shifted = (wanted[-1] / own[-1] - 1) * bands[-1].mean()
    assert to_the_letter.mean() - changed.mean() == pytest.approx(shifted)


def test_silent_bands__stay_as_they_are():
    flat = np.full((40, 40), 30000, dtype=np.uint16)
    flat[::2] += 1
    for residual in ("around_mean", "scale"):
        changed = BandedImage(flat, SIGMAS, "reflect", True).with_energies((0.1,) * 6, residual)
        np.testing.assert_array_equal(changed, flat)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_banded_image__stays_in_the_range_of_the_image(dtype):
    pixels = image(dtype=dtype)
    changed = BandedImage(pixels, SIGMAS, "reflect", True).with_energies((0.3,) * 6, "around_mean")
    assert changed.dtype == dtype
    assert (changed.min(), changed.max()) == (pixels.min(), pixels.max())
    own = energies(decompose(unit(pixels), SIGMAS))
    same = BandedImage(pixels, SIGMAS, "reflect", True).with_energies(tuple(own), "around_mean")
    assert np.abs(same.astype(int) - pixels).max() <= (1 if dtype == np.uint16 else 0)


def test_fit__is_mean_and_deviation_over_the_images():
    images = [image(seed=s) for s in range(5)]
    fitted = fit_energies(images, EnergyBands())
    found = np.array([energies(decompose(unit(i), SIGMAS)) for i in images])
    np.testing.assert_allclose(fitted.mean, found.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(fitted.std, found.std(axis=0), rtol=1e-3)
    assert EnergyBands.build(fitted.model_dump(mode="json")) == fitted
    with pytest.raises(DataError, match="at least one image"):
        fit_energies([], EnergyBands())


def test_fit_policy__measures_each_kind_of_bands_once_and_keeps_what_is_written():
    asked = []

    def images(count):
        asked.append(count)
        return [image(seed=s) for s in range(3)]

    other = EnergyBands(sigmas=(1.0, 3.0), reference_images=7)
    policy = TwoCrops(first=Augment(energy=EnergyBands()), second=Augment(energy=other))
    fitted = fit_policy(policy, images)
    assert sorted(asked) == [7, 1000]
    assert len(fitted.first.energy.mean) == 6
    assert len(fitted.second.energy.mean) == 3
    assert fit_policy(fitted, images) == fitted
    many = MultiCrop(augment=(Augment(energy=EnergyBands()), Augment(energy=FITTED)))
    fitted = fit_policy(many, images)
    assert fitted.augment[1].energy == FITTED
    assert len(asked) == 3


def drawn(bands, count):
    policy = TwoCrops(size=16, first=Augment(energy=bands))
    return [draw(policy, (40, 40), generator(0, VIEWS, 0, key))[0].energy for key in range(count)]


def test_draw__is_normal_and_cut_off_at_one_deviation():
    wanted = np.array([change.wanted for change in drawn(FITTED, 500)])
    for band in range(4):
        share = (wanted[:, band] - FITTED.mean[band]) / FITTED.std[band]
        assert np.abs(share).max() <= 1
        assert stats.kstest(share, stats.truncnorm(-1, 1).cdf).pvalue > 0.01
    assert wanted[:, 5].min() == 0.0  # the mean minus the deviation is below
    assert abs(np.corrcoef(wanted[:, 0], wanted[:, 1])[0, 1]) < 0.15
    uniform = np.array([c.wanted for c in drawn(FITTED.model_copy(
        update={"distribution": "uniform"}), 500)])  # fmt: skip
    share = (uniform[:, 0] - FITTED.mean[0]) / FITTED.std[0]
    assert stats.kstest(share, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_draw__follows_the_probability_and_needs_reference_energies():
    some = drawn(FITTED.model_copy(update={"probability": 0.3}), 500)
    assert 0.2 < np.mean([change is not None for change in some]) < 0.4
    with pytest.raises(ConfigError, match="needs the reference energies"):
        drawn(EnergyBands(probability=1.0), 1)


def test_draw__moves_no_other_parameter():
    plain, more = Augment(rotation=10), Augment(rotation=10, energy=FITTED)
    a, b = (
        draw(TwoCrops(size=16, first=x), (40, 40), generator(0, VIEWS, 0, 5))[0]
        for x in (plain, more)
    )
    assert a == b._replace(energy=None)


def test_apply__takes_the_view_from_the_changed_image():
    pixels = image()
    change = EnergyChange((0.05, 0.01, 0.05, 0.01, 0.08, 0.1), SIGMAS)
    whole = BandedImage(pixels, SIGMAS, "reflect", True).with_energies(change.wanted, "around_mean")
    crop = ((0.5, 0.0, 10.0), (0.0, -0.7, 60.0))
    for affine, size in ((IDENTITY, pixels.shape), (crop, (24, 24))):
        view = apply(pixels, ViewParams(affine, size, energy=change))
        np.testing.assert_array_equal(view, apply(whole, ViewParams(affine, size)))
    with pytest.raises(DataError, match="those of a whole image"):
        apply(pixels, ViewParams(crop, (24, 24), energy=change), origin=(8, 8))
    with pytest.raises(DataError, match="on the CPU"):
        apply_batch(
            torch.from_numpy(pixels)[None, None], [ViewParams(crop, (24, 24), energy=change)]
        )


def test_bounding_box__of_changed_energies_is_the_image():
    crop = ViewParams(((0.5, 0.0, 100.0), (0.0, 0.5, 100.0)), (24, 24))
    assert bounding_box([crop], (400, 500)) != ((0, 0), (400, 500))
    change = EnergyChange((0.1,) * 6, SIGMAS)
    assert bounding_box([crop, crop._replace(energy=change)], (400, 500)) == ((0, 0), (400, 500))


def test_views__share_the_bands_and_differ_in_energies():
    views = Views(
        TwoCrops(size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0), first=Augment(energy=FITTED))
    )
    pixels = image((64, 64))
    params = views.draw((64, 64), generator(0, VIEWS, 0, 1))
    out = [np.empty((1, 32, 32), dtype=np.uint16) for _ in range(2)]
    views.apply(pixels, params, out)
    assert params[0].energy != params[1].energy
    assert np.abs(out[0].astype(int) - out[1]).max() > 500


def test_medical__is_the_papers_set():
    policy = medical(MultiCrop(counts=(2, 6), sizes=(224, 92)))
    assert (policy.counts, policy.sizes, policy.rescale) == ((2, 6), (224, 92), (0.1, 0.7))
    zooms, gammas, scales, shifts, changes = [], [], [], [], 0
    fitted = fit_policy(policy, lambda count: [image(seed=s) for s in range(3)])
    for key in range(150):
        for params in draw(fitted, (2400, 2800), generator(0, VIEWS, 0, key)):
            zooms.append(1 / params.affine[0][0])
            gammas += [params.gamma] if params.gamma != 1 else []
            scales += [params.brightness] if params.brightness != 1 else []
            shifts += [params.shift] if params.shift else []
            changes += params.energy is not None
            assert params.contrast == 1
            assert params.blur == 0
    total = len(zooms)
    assert stats.kstest(zooms, stats.uniform(0.1, 0.6).cdf).pvalue > 0.01
    assert stats.kstest(gammas, stats.uniform(1.8, 0.8).cdf).pvalue > 0.01
    assert stats.kstest(scales, stats.uniform(0.9, 0.2).cdf).pvalue > 0.01
    assert stats.kstest(shifts, stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01
    for count in (len(gammas), len(scales), changes):
        assert 0.44 < count / total < 0.56


def test_medical__refuses_views_that_are_not_random():
    with pytest.raises(ConfigError, match="no random view"):
        medical(EvalView())
    with pytest.raises(ConfigError, match="no random view"):
        with_energy_bands(EvalView(), FITTED)
    kept = with_energy_bands(
        TwoCrops(first=Augment(energy=FITTED), second=Augment()), EnergyBands()
    )
    assert (kept.first.energy, kept.second.energy) == (FITTED, EnergyBands())


def test_rescale__shows_as_much_as_there_is():
    policy = TwoCrops(size=64, rescale=(0.1, 0.2))
    for params in draw(policy, (200, 400), generator(0, VIEWS, 0, 0)):
        assert params.affine[0][0] == params.affine[1][1] == pytest.approx(200 / 64)


def test_rescale__shrinks_no_image_below_the_view():
    policy = TwoCrops(size=224, rescale=(0.1, 0.7))
    shrunk = [
        1 / params.affine[0][0]
        for key in range(150)
        for params in draw(policy, (512, 640), generator(0, VIEWS, 0, key))
    ]
    least = 224 / 512
    assert stats.kstest(shrunk, stats.uniform(least, 0.7 - least).cdf).pvalue > 0.01


def test_shift__adds_to_the_values_on_both_kernels():
    pixels = image()
    params = ViewParams(IDENTITY, pixels.shape, brightness=1.1, shift=-0.1)
    expected = np.clip(unit(pixels) * 1.1 - 0.1, 0, 1)
    np.testing.assert_allclose(apply(pixels, params)[0] / 65535, expected, atol=2e-5)
    batch = apply_batch(torch.from_numpy(pixels)[None, None], [params])
    np.testing.assert_allclose(batch[0, 0].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"sigmas": (2.0, 1.0)},
        {"sigmas": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)},
        {"mean": (0.1,) * 6},
        {"mean": (0.1,) * 5, "std": (0.1,) * 5},
        {"mean": (-0.1,) * 6, "std": (0.1,) * 6},
    ],
)
def test_energy_bands__refuse_what_cannot_be(values):
    with pytest.raises(ConfigError):
        EnergyBands.build(values)
