"""Settings that count epochs, in trainings shorter than they expect."""

import pytest
import torch
from tests.methods.objectives import make_batch, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.contract import Progress
from scoutview.methods import config_class
from scoutview.methods.swav import SwAV, SwAVConfig


@pytest.mark.parametrize(
    ("name", "field", "expected"),
    [
        ("swav", "frozen_epochs", 0.05),
        ("swav", "queue_from_epoch", 0),
        ("dino", "frozen_epochs", 0.05),
        ("dino", "teacher_warmup_epochs", 0.15),
        ("insdis", "z_epochs", 0.25),
        ("pcl_v2", "prototype_warmup", 0.0),
        ("pcl_v1", "prototype_warmup", 0.0),
    ],
)
def test_half_an_epoch__lowers_defaults_and_refuses_what_never_takes_effect(name, field, expected):
    kind = config_class(name)
    config, notes = kind().preflight_budget(0.5)
    assert getattr(config, field) == pytest.approx(expected)
    assert any(field in note for note in notes)
    assert field not in config.model_fields_set
    with pytest.raises(ConfigError, match=field):
        kind(**{field: 1}).preflight_budget(0.5)
    assert kind(**{field: 0}).preflight_budget(0.5)[0].model_dump()[field] == 0


def test_inter_branch__must_join_before_the_end():
    kind = config_class("moco_v2_interclr")
    assert kind(inter_from_epoch=2).preflight_budget(2.5)[1] == []
    with pytest.raises(ConfigError, match="the branch never joins"):
        kind(inter_from_epoch=3).preflight_budget(2.5)


@pytest.mark.parametrize("name", ["swav", "dino", "insdis", "pcl_v2", "byol_interclr"])
def test_long_trainings__keep_the_papers_settings(name):
    config = config_class(name)()
    assert config.preflight_budget(100.0) == (config, [])


def test_swav__moves_its_prototypes_in_half_an_epoch():
    config, _ = SwAVConfig(hidden_dim=16, output_dim=8, prototypes=6).preflight_budget(0.5)
    swav = SwAV(small_backbone(), config)
    moved = []
    for step in range(4):
        swav.zero_grad()
        swav(make_batch("swav", 8), Progress(step, 10, 0, 1, 160, 20)).loss.backward()
        moved.append(bool(torch.any(swav.prototypes.grad != 0)))
    assert moved == [False, True, True, True]  # 0.05 epochs of 20 steps are one step
