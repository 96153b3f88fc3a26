import math

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone
from torch import nn

from scoutview.base.errors import ConfigError
from scoutview.methods.simclr_v2 import SimCLRV2, SimCLRV2Config


def method(**settings) -> SimCLRV2:
    torch.manual_seed(0)
    values = {"queue_length": 8} | settings
    return SimCLRV2(small_backbone(), SimCLRV2Config(hidden_dim=16, output_dim=8, **values))


@pytest.mark.parametrize("length", [0, 8])
def test_loss__counts_the_memory_among_the_strangers(length):
    simclr, batch = method(queue_length=length).eval(), make_batch("simclr_v2", 4)
    with torch.no_grad():
        loss = float(simclr(batch, progress(0)).loss)
        z = simclr.projector(simclr.backbone(torch.cat(batch.views)))
    z = z / z.norm(dim=1, keepdim=True)
    total = 0.0
    for i in range(8):
        others = [float(z[i] @ z[k]) for k in range(8) if k != i]
        if length:
            others += [float(z[i] @ row) for row in simclr.queue.rows]
        partner = float(z[i] @ z[(i + 4) % 8])
        total += math.log(sum(math.exp((s - partner) / 0.1) for s in others)) / 8
    assert loss == pytest.approx(total, rel=1e-4)


def test_after_update__stores_the_second_views_and_moves_the_slow_network():
    simclr, batch = method(momentum=0.5), make_batch("simclr_v2", 4)
    before = simclr.teacher_projector[0].weight.clone()
    simclr(batch, progress(0)).loss.backward()
    rows, _ = simclr.queue.held[0]
    with torch.no_grad():
        simclr.projector[0].weight.add_(1.0)
    simclr.after_update(progress(0))
    assert torch.equal(simclr.queue.rows[:4], rows)
    torch.testing.assert_close(simclr.teacher_projector[0].weight, before + 0.5)


def test_kept_head__is_the_first_layer_as_trained():
    simclr = method()
    kept = simclr.kept_head()
    assert [type(part) for part in kept] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kept[0] is simclr.projector[0]


def test_preflight__lowers_the_default_memory_and_refuses_a_short_one():
    config, notes = SimCLRV2Config().preflight(4708, 256)
    assert config.queue_length == 4608
    assert "65536" in notes[0]
    with pytest.raises(ConfigError, match="at most 4708"):
        SimCLRV2Config(queue_length=10_000).preflight(4708, 256)
    with pytest.raises(ConfigError, match="0 or hold at least the batch of 256"):
        SimCLRV2Config(queue_length=100).preflight(4708, 256)
    assert SimCLRV2Config(queue_length=0).preflight(4708, 256)[1] == []
