"""Views that pre-training settles: the medical set, reference energies stored with the run."""

import numpy as np
import pytest
from tests.cohorts import TINY, radiograph_cohort

import scoutview.api.pretrain_views as views_module
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.base.errors import ConfigError
from scoutview.data.samples import DataConfig, Samples
from scoutview.index.cohort import Cohort
from scoutview.methods import config_class
from scoutview.methods.simclr import SimCLRConfig
from scoutview.results.run import RunFolder
from scoutview.store.reader import Store
from scoutview.views.energy_bands import decompose, energies
from scoutview.views.policy import Augment, EnergyBands, TwoCrops

SMALL = SimCLRConfig(hidden_dim=16, output_dim=8)


def config(**changes) -> PretrainConfig:
    values = {
        "samples": 16,
        "batch_size": 8,
        "backbone": TINY,
        "accelerator": "cpu",
        "probe_every": None,
        "progress": False,
    }
    return PretrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    return radiograph_cohort(folder, {"train": 24, "val": 8, "test": 8})


def stored_views(path):
    values = dict(RunFolder.open(path).config["method"])
    return config_class(values.pop("name")).build(values).views


def test_energy_bands__are_measured_once_and_stored_with_the_run(chests, tmp_path):
    chosen = config(energy_bands=EnergyBands(probability=1.0))
    path = pretrain(chests, "simclr", tmp_path / "run", config=chosen, settings=SMALL)
    views = stored_views(path)
    bands = views.first.energy
    assert bands.probability == 1.0
    notes = RunFolder.open(path).summary()["notes"]
    assert "Reference energies were measured on 24 training images." in notes
    assert RunFolder.open(path).config["energy_bands"]["mean"] is None
    again = pretrain(chests, "simclr", tmp_path / "again", config=chosen, settings=SMALL)
    assert stored_views(again) == views


def test_reference_energies__are_those_of_the_training_images(chests, tmp_path):
    chosen = config(energy_bands=EnergyBands())
    path = pretrain(chests, "simclr", tmp_path / "run", config=chosen, settings=SMALL)
    cohort = Cohort.open(chests)
    samples = Samples.of(Store.open(chests), cohort, DataConfig(split="train"))
    image, slices, records = samples.locate(np.arange(len(samples)))
    found = []
    for number, record in enumerate(records):
        pixels = samples.image(record, int(slices[number]), int(samples.rows[image[number]]), None)
        unit = pixels / np.iinfo(pixels.dtype).max
        found.append(energies(decompose(unit, EnergyBands().sigmas)))
    fitted = stored_views(path).first.energy
    np.testing.assert_allclose(fitted.mean, np.mean(found, axis=0), rtol=1e-4)
    np.testing.assert_allclose(fitted.std, np.std(found, axis=0), rtol=1e-3)


def test_medical__keeps_the_sizes_and_draws_small_images_by_area(chests, tmp_path):
    chosen = config(view_preset="medical")
    path = pretrain(chests, "simclr", tmp_path / "run", config=chosen, settings=SMALL)
    views = stored_views(path)
    assert views.size == 28
    assert views.rescale is None
    assert views.first.intensity.gamma == (1.8, 2.6)
    assert views.first.energy.mean is not None
    notes = RunFolder.open(path).summary()["notes"]
    assert any("crops are drawn by area instead" in note for note in notes)


def test_resume__takes_the_stored_energies(chests, tmp_path, monkeypatch):
    import scoutview.api.pretrain as module

    original = module.fit

    def failing(*arguments, **named):
        raise RuntimeError("planted")

    monkeypatch.setattr(module, "fit", failing)
    chosen = config(energy_bands=EnergyBands(reference_images=5))
    with pytest.raises(RuntimeError, match="planted"):
        pretrain(chests, "simclr", tmp_path / "run", config=chosen, settings=SMALL)
    monkeypatch.setattr(module, "fit", original)
    monkeypatch.setattr(views_module, "fit_policy", failing)
    assert RunFolder.open(pretrain(resume=tmp_path / "run")).finished


def test_views__written_in_part_keep_the_rest_of_the_method(chests, tmp_path):
    part = SimCLRConfig.build({"hidden_dim": 16, "output_dim": 8, "views": {"size": 24}})
    path = pretrain(chests, "simclr", tmp_path / "part", config=config(), settings=part)
    whole = pretrain(chests, "simclr", tmp_path / "whole", config=config(), settings=SMALL)
    views, usual = stored_views(path), stored_views(whole)
    assert (views.size, usual.size) == (24, 28)
    assert views.model_copy(update={"size": 28}) == usual
    assert views.first.intensity.brightness == 0.1, "held to what is safe"
    bright = {"views": {"first": {"intensity": {"brightness": 0.5}}}}
    wish = SimCLRConfig.build({"hidden_dim": 16, "output_dim": 8, **bright})
    views = stored_views(
        pretrain(chests, "simclr", tmp_path / "own", config=config(), settings=wish)
    )
    assert (views.first.intensity.brightness, views.first.intensity.contrast) == (0.5, 0.2)


def test_medical__goes_with_written_sizes_and_energy_bands(chests, tmp_path):
    part = SimCLRConfig.build({"hidden_dim": 16, "output_dim": 8, "views": {"size": 24}})
    chosen = config(view_preset="medical", energy_bands=EnergyBands(probability=1.0))
    views = stored_views(pretrain(chests, "simclr", tmp_path / "run", config=chosen, settings=part))
    assert (views.size, views.first.energy.probability) == (24, 1.0)
    assert views.first.intensity.gamma == (1.8, 2.6)


def test_views__that_contradict_are_refused_before_anything_is_written(chests, tmp_path):
    written = SimCLRConfig(views=TwoCrops(size=28, first=Augment()))
    for name, settings, chosen, message in (
        ("simclr", written, config(view_preset="medical"), "more of views was written"),
        ("simclr", SMALL, config(energy_bands=EnergyBands(), views_on="device"), "on the CPU"),
        ("supervised", None, config(energy_bands=EnergyBands()), "no random view"),
    ):
        with pytest.raises(ConfigError, match=message):
            pretrain(chests, name, tmp_path / "run", config=chosen, settings=settings)
        assert not (tmp_path / "run").exists()


def test_energy_bands__are_added_to_written_views_that_have_none(chests, tmp_path):
    own = EnergyBands(mean=(0.1,) * 6, std=(0.0,) * 6)
    settings = SimCLRConfig(
        hidden_dim=16, output_dim=8,
        views=TwoCrops(size=28, first=Augment(energy=own), second=Augment()),
    )  # fmt: skip
    chosen = config(energy_bands=EnergyBands(sigmas=(1.0, 2.0)))
    views = stored_views(
        pretrain(chests, "simclr", tmp_path / "run", config=chosen, settings=settings)
    )
    assert views.first.energy == own
    assert len(views.second.energy.mean) == 3
