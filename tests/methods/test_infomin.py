import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.methods.infomin import InfoMin, InfoMinConfig
from scoutview.nn.losses.contrastive import info_nce_logits


def method(**settings) -> InfoMin:
    torch.manual_seed(0)
    config = InfoMinConfig(hidden_dim=16, output_dim=8, queue_length=8, **settings)
    return InfoMin(small_backbone(), config)


def test_forward__both_branches_look_for_the_key_of_the_second_crop():
    infomin, batch = method(jigsaw_weight=0.25).eval(), make_batch("infomin", 4)
    out = infomin(batch, progress(0))
    key, _ = infomin.queue.held[0]
    patches = torch.cat([infomin.backbone(view) for view in batch.views[2:]])
    queries = infomin.projector(infomin.backbone(batch.views[0])), infomin.jigsaw(patches)
    expected = []
    for query in queries:
        query = torch.nn.functional.normalize(query, dim=1)
        logits = info_nce_logits(query, key, infomin.queue.rows, temperature=0.15)
        expected.append(float((logits.logsumexp(dim=1) - logits[:, 0]).mean().detach()))
    assert float(out.logs["crop_loss"]) == pytest.approx(expected[0], rel=1e-4)
    assert float(out.logs["jigsaw_loss"]) == pytest.approx(expected[1], rel=1e-4)
    mixed = 0.75 * expected[0] + 0.25 * expected[1]
    assert float(out.loss.detach()) == pytest.approx(mixed, rel=1e-4)


def test_after_update__stores_keys_and_moves_the_teacher_of_the_crops():
    infomin = method(momentum=0.5)
    before = infomin.teacher_projector[0].weight.clone()
    for seed in (0, 1):
        infomin(make_batch("infomin", 4, seed=seed), progress(0))
    keys = torch.cat([rows for rows, _ in infomin.queue.held])
    with torch.no_grad():
        infomin.projector[0].weight.add_(1.0)
    infomin.after_update(progress(0))
    assert torch.equal(infomin.queue.rows, keys)
    torch.testing.assert_close(infomin.teacher_projector[0].weight, before + 0.5)


def test_preflight__lowers_the_default_queue_and_refuses_one_that_the_user_wrote():
    config, notes = InfoMinConfig().preflight(4708, 256)
    assert config.queue_length == 4608
    assert "65536" in notes[0]
    with pytest.raises(ConfigError, match="at most 4708"):
        InfoMinConfig(queue_length=10_000).preflight(4708, 256)
    with pytest.raises(ConfigError, match="at least the batch of 256"):
        InfoMinConfig(queue_length=100).preflight(4708, 256)
