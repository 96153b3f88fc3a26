import math

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone

from scoutview.base.errors import ConfigError
from scoutview.methods.swav import SwAV, SwAVConfig


def method(**settings) -> SwAV:
    torch.manual_seed(0)
    values = {"queue_length": 8, "queue_from_epoch": 0, "frozen_epochs": 0.0} | settings
    config = SwAVConfig(hidden_dim=16, output_dim=8, prototypes=6, **values)
    return SwAV(small_backbone(), config, dataset_size=64)


def test_preflight__lowers_defaults_to_small_data():
    config, notes = SwAVConfig().preflight(1000, 128)
    assert (config.prototypes, config.queue_length) == (100, 896)
    assert len(notes) == 2


def test_preflight__leaves_the_queue_out_when_the_batch_is_larger():
    assert SwAVConfig().preflight(10**6, 4096)[0].queue_length == 0
    with pytest.raises(ConfigError, match="must be 0 or hold"):
        SwAVConfig(queue_length=3840).preflight(10**6, 4096)


def test_preflight__refuses_more_prototypes_than_images_and_warns_of_too_few_rows():
    with pytest.raises(ConfigError, match="prototypes must be at most 500"):
        SwAVConfig(prototypes=501).preflight(500, 64)
    _, notes = SwAVConfig(prototypes=400, queue_length=0).preflight(500, 64)
    assert "cannot fill" in notes[0]


def test_preflight__refuses_to_train_with_one_prototype():
    with pytest.raises(ConfigError, match="prototypes must be at least 2 to train, got 1"):
        SwAVConfig(prototypes=1).preflight(500, 64)


def test_prototypes__are_frozen_at_first_and_of_unit_length_always():
    swav = method(frozen_epochs=2.0)
    before = swav.prototypes.detach().clone()
    optimizer = torch.optim.SGD(swav.parameters(), lr=1.0, weight_decay=1e-3)
    for step in range(3):
        optimizer.zero_grad()
        swav(make_batch("swav", 8), progress(step)).loss.backward()
        frozen = step < 2
        assert (swav.prototypes.grad.abs().max() == 0) == frozen
        optimizer.step()
        swav.after_update(progress(step))
        torch.testing.assert_close(swav.prototypes.norm(dim=1), torch.ones(6))
        same = torch.allclose(swav.prototypes, before, atol=1e-6)
        assert same == frozen


def test_queue__joins_the_assignment_once_it_is_full():
    swav = method()
    batch = make_batch("swav", 4)
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    alone = swav._assign(0, scores)
    for step in range(2):
        assert torch.equal(swav._assign(0, scores), alone)
        swav(batch, progress(step))
        swav.after_update(progress(step))
    assert not torch.allclose(swav._assign(0, scores), alone)


def test_queue__waits_for_its_epoch():
    swav = method(queue_from_epoch=5)
    swav(make_batch("swav", 4), progress(4))
    swav.after_update(progress(4))
    assert swav.queues[0].count == 0


def test_logs__hold_chance_level_and_entropy():
    logs = method()(make_batch("swav", 8), progress(0)).logs
    assert float(logs["chance_loss"]) == pytest.approx(2 * 7 * math.log(6), rel=1e-6)
    assert 0 < float(logs["assignment_entropy"]) < math.log(6)


def test_small_epsilon__stays_finite():
    assert math.isfinite(method(epsilon=0.003)(make_batch("swav", 8), progress(0)).loss.item())
