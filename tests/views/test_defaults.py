"""Limits per modality and the papers' policies."""

import pytest

from scoutview.base.errors import ConfigError
from scoutview.pixels.vocabulary import MODALITIES
from scoutview.views import presets
from scoutview.views.defaults import LIMITS, augment_for, for_modalities, for_modality
from scoutview.views.policy import EvalView


def test_limits__know_every_modality_word():
    assert set(LIMITS) == {*MODALITIES, "other"}


@pytest.mark.parametrize("modality", ["CR", "DX", "CT", "MR", "other"])
def test_for_modality__never_mirrors_where_sides_matter(modality):
    for policy in (presets.byol(flip=0.5, solarise=0.2), presets.simclr(flip=0.5)):
        for spec in for_modality(modality, policy).specs(2):
            assert spec.augment.flip_horizontal == 0
            assert spec.augment.intensity.solarise_probability == 0
    assert augment_for(modality).flip_horizontal == 0


def test_for_modality__adds_nothing():
    policy = presets.swav()
    limited = for_modality("XC", policy)
    assert limited.augment[0].flip_horizontal == 0
    assert limited.augment[0].rotation == 0
    assert limited.augment[0].intensity.brightness == 0.4
    assert limited.scales == policy.scales
    assert for_modality("CT", EvalView()) == EvalView()


def test_for_modalities__takes_the_strictest():
    policy = for_modalities({"XC", "CT"}, presets.simclr(flip=0.5))
    assert policy.first.flip_horizontal == 0
    assert policy.first.intensity.contrast == 0.2


def test_for_modality__names_the_nearest_word():
    with pytest.raises(ConfigError, match=r"Unknown modality 'MRI'\. Did you mean 'MR'"):
        for_modality("MRI", presets.simclr())


def test_presets__hold_the_papers_numbers():
    assert presets.simclr().scale == (0.08, 1.0)
    assert presets.simclr().first.intensity.brightness == 0.8
    assert presets.moco_v2().scale == (0.2, 1.0)
    assert presets.moco_v2().first.intensity.contrast == 0.4
    byol = presets.byol(solarise=0.2)
    assert byol.first.intensity.blur_probability == 1.0
    assert byol.second is not None
    assert byol.second.intensity.blur_probability == 0.1
    assert byol.second.intensity.solarise_probability == 0.2
    assert presets.barlow_twins() == presets.byol()
    assert presets.swav().n_views == 8
    assert presets.swav().scales == ((0.14, 1.0), (0.05, 0.14))


def test_small_images__crops_keep_enough_pixels():
    small = presets.two_crops_for_small_images(presets.simclr(), 28)
    assert small.size == 28
    assert small.scale[0] * 28 * 28 >= 16 * 16 - 1e-9
    assert small.first.intensity.blur_probability == 0
    multi = presets.multi_crop_for_small_images(presets.swav(), 28)
    assert multi.sizes == (28, 12)
    for scale, pixels in zip(multi.scales, (16, 12), strict=True):
        assert scale[0] * 28 * 28 >= pixels**2 - 1e-9
        assert scale[0] < scale[1] <= 1
    assert presets.two_crops_for_small_images(presets.simclr(), 224) == presets.simclr()
