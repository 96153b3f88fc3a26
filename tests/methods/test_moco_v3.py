import math

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.methods.moco_v3 import MoCoV3, MoCoV3Config
from scoutview.nn.backbones import BackboneConfig, build_backbone

VIT = BackboneConfig(name="test_vit", image_size=32)


def method(backbone=None, **settings) -> MoCoV3:
    torch.manual_seed(0)
    config = MoCoV3Config(hidden_dim=16, output_dim=8, **settings)
    return MoCoV3(backbone or small_backbone(), config)


def test_loss__is_twice_the_temperature_times_the_cross_entropy_of_both_directions():
    moco, batch = method().eval(), make_batch("moco_v3", 5)
    with torch.no_grad():
        loss = float(moco(batch, progress(0)).loss)
        q = [moco.predictor(moco.projector(moco.backbone(v))) for v in batch.views]
        k = [moco.teacher_projector(moco.teacher_backbone(v)) for v in batch.views]
    total = 0.0
    for queries, keys in ((q[0], k[1]), (q[1], k[0])):
        for i in range(5):
            similar = [float(torch.cosine_similarity(queries[i], key, dim=0)) for key in keys]
            total += math.log(sum(math.exp((s - similar[i]) / 0.2) for s in similar)) / 5
    assert loss == pytest.approx(2 * 0.2 * total, rel=1e-4)


def test_teacher__follows_fast_at_first_and_stops_at_the_end():
    for step, share in ((0, 0.1), (30, 0.0)):
        moco = method(momentum=0.9)
        before = moco.teacher_projector[0].weight.clone()
        with torch.no_grad():
            moco.projector[0].weight.add_(1.0)
        moco.after_update(progress(step, total=30))
        torch.testing.assert_close(moco.teacher_projector[0].weight, before + share)


@pytest.mark.parametrize(("setting", "trained"), [(None, False), (True, False), (False, True)])
def test_patch_projection__stays_as_it_was_drawn_unless_it_may_move(setting, trained):
    moco = method(build_backbone(VIT), fixed_patch_projection=setting)
    moco(make_batch("moco_v3", 4), progress(0)).loss.backward()
    for name, parameter in moco.backbone.named_parameters():
        patch = "patch_embed" in name
        assert (parameter.grad is not None) == (trained or not patch), name


def test_patch_projection__cannot_be_fixed_where_there_is_none():
    method()
    with pytest.raises(ConfigError, match="needs a transformer with patches"):
        method(fixed_patch_projection=True)


def test_for_network__takes_the_settings_of_resnets_but_nothing_that_was_written():
    config = MoCoV3Config(temperature=0.3).for_network("convolutional")
    assert (config.optimizer.kind, config.projector_layers) == ("lars", 2)
    assert (config.temperature, config.views.scale) == (0.3, (0.2, 1.0))
    assert config.model_fields_set == {"temperature"}
    assert MoCoV3Config().for_network("transformer") == MoCoV3Config()
