import math
from dataclasses import replace

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.methods.dino import DINO, DINOConfig
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.views.policy import MultiCrop

VIEWS = MultiCrop(counts=(2, 1), sizes=(32, 16), scales=((0.25, 1.0), (0.05, 0.25)))


def method(backbone=None, **settings) -> DINO:
    torch.manual_seed(0)
    values = {"frozen_epochs": 0.0, "views": VIEWS} | settings
    config = DINOConfig(hidden_dim=16, output_dim=8, prototypes=8, **values)
    return DINO(backbone or small_backbone(), config)


def three_views(size=4):
    batch = make_batch("dino", size)
    return replace(batch, views=batch.views[:3])


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 1 / 4)])
def test_loss__is_the_cross_entropy_of_the_centred_and_sharpened_codes(reduction, share):
    dino, batch = method(loss_reduction=reduction).eval(), three_views()
    dino.centre.copy_(torch.linspace(-0.2, 0.2, 8))
    with torch.no_grad():
        loss = float(dino(batch, progress(15, total=60)).loss)
        scores = [dino.prototypes(dino.projector(dino.backbone(v))) for v in batch.views]
        teacher = [
            dino.teacher_prototypes(dino.teacher_projector(dino.teacher_backbone(v)))
            for v in batch.views[:2]
        ]
    temperature = 0.04 + 15 / 30 * 0.03  # one step an epoch, half of the 30 epochs
    total = 0.0
    for i, target in enumerate(teacher):
        code = torch.softmax((target - dino.centre) / temperature, dim=1)
        for v, score in enumerate(scores):
            if v != i:
                total -= float((code * torch.log_softmax(score / 0.1, dim=1)).sum()) / 4
    assert loss == pytest.approx(share * total, rel=1e-4)


def test_centre__follows_the_mean_of_the_teachers_scores():
    dino, batch = method(centre_momentum=0.75), three_views()
    dino(batch, progress(0))
    dino(three_views(8), progress(0))  # a second accumulated part
    expected = 0.25 * (dino._new_means[0] + dino._new_means[1]) / 2
    dino.after_update(progress(0))
    torch.testing.assert_close(dino.centre, expected)
    assert dino.centre.abs().max() > 0


def test_prototypes__do_not_change_in_the_first_epochs():
    dino = method(frozen_epochs=2.0)
    before = dino.prototypes.weight.detach().clone()
    optimizer = torch.optim.Adam(dino.parameters(), weight_decay=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        dino(three_views(), progress(step)).loss.backward()
        assert (float(dino.prototypes.weight.grad.abs().max()) == 0) == (step < 2)
        assert float(dino.projector[0].weight.grad.abs().max()) > 0
        optimizer.step()
        dino.after_update(progress(step))
        assert torch.equal(dino.prototypes.weight, before) == (step < 2)


def test_transformers__take_crops_of_two_sizes():
    vit = build_backbone(BackboneConfig(name="test_vit", image_size=32))
    out = method(vit)(three_views(), progress(0))
    assert math.isfinite(float(out.loss.detach()))


def test_preflight__lowers_default_prototypes_and_names_missing_centring():
    config, notes = DINOConfig().preflight(4708, 256)
    assert config.prototypes == 4708
    assert "lowered from 65536" in notes[0]
    assert DINOConfig(prototypes=9000).preflight(4708, 256)[0].prototypes == 9000
    assert "9000 prototypes are more" in DINOConfig(prototypes=9000).preflight(4708, 256)[1][0]
    _, notes = DINOConfig(centre_momentum=1.0, prototypes=100).preflight(4708, 256)
    assert "without centring" in notes[0]
    alone = MultiCrop(counts=(1,), sizes=(32,), scales=((0.25, 1.0),))
    with pytest.raises(ConfigError, match="at least 2 crops, got 1"):
        DINOConfig(views=alone).preflight(4708, 256)


def test_for_network__takes_the_settings_of_resnets():
    config = DINOConfig().for_network("convolutional")
    assert config.optimizer.kind == "sgd"
    assert config.views.scales == ((0.14, 1.0), (0.05, 0.14))
    assert config.model_fields_set == set()


def test_for_network__steps_as_far_as_the_published_mean_loss():
    config = DINOConfig().for_network("convolutional")
    views = config.views.n_views
    pairs = 2 * (views - 1) if config.loss_reduction == "sum" else 1
    assert config.optimizer.lr * pairs == 0.03
    assert DINOConfig().for_network("transformer").loss_reduction == "sum"
    written = DINOConfig(loss_reduction="sum").for_network("convolutional")
    assert written.loss_reduction == "sum"
