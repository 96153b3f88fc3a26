from dataclasses import replace

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.api.experiment import Pretraining
from scoutview.methods.pixpro import PixPro
from scoutview.recipes.pixelpro import pixelpro


def test_pixelpro__holds_the_numbers_of_the_study_and_survives_a_round_trip():
    recipe = pixelpro(seed=3)
    settings, config = recipe.settings, recipe.config
    assert (settings.hidden_dim, settings.output_dim, settings.threshold) == (2048, 512, 0.7)
    assert (settings.momentum, settings.momentum_schedule) == (0.99, "constant")
    assert (settings.exponent, settings.transform_layers, settings.instance_weight) == (2, 1, 1)
    assert settings.optimizer.kind == "adam"
    assert (settings.optimizer.lr, settings.optimizer.weight_decay) == (1e-3, 1e-5)
    assert (config.batch_size, config.epochs, config.seed) == (64, 100, 3)
    sides = [area**0.5 for area in settings.views.scale]
    assert sides == pytest.approx([0.6, 0.8])
    assert settings.views.ratio == (1.0, 1.0)  # both sides, not the area alone
    assert Pretraining.build(recipe.model_dump(mode="json")) == recipe


def test_pixelpro__compares_real_cells():
    """The published form had one cell, whose loss does not change when the crops move."""
    settings = pixelpro().settings.model_copy(update={"hidden_dim": 16, "output_dim": 8})
    torch.manual_seed(0)
    objective = PixPro(small_backbone(), settings)
    batch = make_batch("pixpro", 4)
    moved = batch.geometry[1].clone()
    moved[:, :, 2] += 12.0  # by a cell and a half of 8 pixels
    first = objective(batch, progress(0)).loss.item()
    second = objective(replace(batch, geometry=[batch.geometry[0], moved]), progress(0)).loss.item()
    assert first != pytest.approx(second, rel=1e-3)
