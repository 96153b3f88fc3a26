import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.methods.objectives import make_batch, part_of, progress, small_backbone
from tests.processes import run_ranks
from torch.nn.parallel import DistributedDataParallel

from scoutview.base.errors import ConfigError
from scoutview.methods.swav import SwAV, SwAVConfig
from scoutview.nn.backbones import encode_views
from scoutview.nn.precision import unit
from scoutview.nn.sync_batch_norm import convert_sync_batch_norm
from scoutview.train.optimizers import build_optimizer


def method(**settings) -> SwAV:
    torch.manual_seed(0)
    values = {"queue_length": 8, "queue_from_epoch": 0, "frozen_epochs": 0.0} | settings
    config = SwAVConfig(hidden_dim=16, output_dim=8, prototypes=6, **values)
    return SwAV(small_backbone(), config)


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
    assert "cannot fill" in notes[1]


def test_preflight__names_written_prototypes_of_few_images():
    config, (thin,) = SwAVConfig(prototypes=400, queue_length=448).preflight(500, 64)
    assert config.prototypes == 400
    assert "400 prototypes have 1.2 images each" in thin
    assert SwAVConfig(prototypes=50, queue_length=448).preflight(500, 64)[1] == []


def test_preflight__refuses_to_train_with_one_prototype():
    with pytest.raises(ConfigError, match="prototypes must be at least 2 to train, got 1"):
        SwAVConfig(prototypes=1).preflight(500, 64)


def test_optimizer__steps_as_far_for_the_sum_as_for_the_mean_of_the_pairs():
    moved = []
    for pairs in (1.0, 14.0):
        torch.manual_seed(0)
        layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
        layer[1].bias.data.fill_(0.1)
        optimizer = build_optimizer(layer, SwAVConfig().optimizer, batch_size=256)
        (pairs * layer(torch.ones(2, 3)).square().sum()).backward()
        optimizer.step()
        moved.append([p.detach() for p in layer.parameters()])
    torch.testing.assert_close(*moved)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
def test_prototypes__are_frozen_at_first_and_of_unit_length_always(optimiser):
    swav = method(frozen_epochs=2.0)
    before = swav.prototypes.detach().clone()
    optimizer = optimiser(swav.parameters(), lr=0.1, weight_decay=1e-3)
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


# --- per modality ----------------------------------------------------------------------------


def two_modalities(**settings) -> SwAV:
    torch.manual_seed(0)
    values = {"queue_length": 8, "queue_from_epoch": 0, "frozen_epochs": 0.0} | settings
    config = SwAVConfig(hidden_dim=16, output_dim=8, prototypes=6, per_modality=True, **values)
    return SwAV(small_backbone(), config, num_groups=2)


def mixed_batch(size: int, groups: list[int], seed: int = 0, dtype=torch.float32):
    batch = make_batch("swav", size, seed=seed, dtype=dtype)
    return replace(batch, groups=torch.tensor(groups))


def embeddings_of(swav: SwAV, batch) -> torch.Tensor:
    rows = unit(swav.projector(encode_views(swav.backbone, batch.views)))
    return rows.view(len(batch.views), len(batch), -1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_per_modality__is_swav_of_each_modality_with_its_own_prototypes(reduction):
    """Equation 4 of arXiv:2201.01283: codes and softmax over the prototypes of one modality."""
    swav = two_modalities(modality_reduction=reduction, queue_length=0)
    batch = mixed_batch(8, [1, 0, 0, 1, 1, 0, 0, 1])
    loss = float(swav(batch, progress(0)).loss.detach())
    z = embeddings_of(swav, batch).detach().double()
    total = 0.0
    for modality in (0, 1):
        own = swav.prototypes.detach()[6 * modality : 6 * modality + 6].double()
        scores = z[:, batch.groups == modality] @ own.T  # (V, 4, 6)
        log_p = torch.log_softmax(scores / 0.1, dim=2)
        for view in (0, 1):
            q = torch.exp(scores[view] / 0.05)
            for _ in range(3):
                q = q / q.sum(dim=0)
                q = q / q.sum(dim=1, keepdim=True)
            others = [log_p[v] for v in range(len(z)) if v != view]
            total -= sum(float((q * other).sum(dim=1).mean()) for other in others)
    assert loss == pytest.approx(total / (2 if reduction == "mean" else 1), rel=1e-4)


def test_per_modality__prototypes_of_one_do_not_see_images_of_the_other():
    swav = two_modalities()
    z = embeddings_of(swav, mixed_batch(8, [0, 1] * 4)).detach()
    loss, _ = swav.swapped_loss(z[:, ::2], progress(0), 0)
    loss.backward()
    assert swav.prototypes.grad[:6].abs().max() > 0
    assert swav.prototypes.grad[6:].abs().max() == 0


def test_per_modality__queues_hold_their_modality():
    swav = two_modalities()
    batch = mixed_batch(8, [0, 1] * 4)
    swav(batch, progress(0))
    swav.after_update(progress(0))
    z = embeddings_of(swav, batch)
    assert len(swav.queues) == 4
    for modality in (0, 1):
        for view in (0, 1):
            queue = swav.queues[2 * modality + view]
            expected = z[view, batch.groups == modality].detach()
            torch.testing.assert_close(queue.ordered()[:4], expected)


def test_per_modality__refuses_unequal_parts_and_unknown_modalities():
    for groups in ([0, 0, 0, 1], [0, 1, 2, 0], [0, 0, 0, 0]):
        with pytest.raises(ConfigError, match="equally many images of each of 2 groups"):
            two_modalities()(mixed_batch(4, groups), progress(0))


def test_preflight_modalities__fits_the_smallest_one():
    config, notes = SwAVConfig(per_modality=True).preflight_modalities({"CT": 9000, "US": 400}, 256)
    assert (config.prototypes, config.queue_length) == (40, 384)
    assert all("US has 400 training images" in note for note in notes)
    with pytest.raises(ConfigError, match=r"batch_size must be at most 800.*US has 400"):
        SwAVConfig(per_modality=True).preflight_modalities({"CT": 9000, "US": 400}, 1024)
    with pytest.raises(ConfigError, match="prototypes must be at most 400, because US"):
        SwAVConfig(per_modality=True, prototypes=500).preflight_modalities(
            {"CT": 9000, "US": 400}, 256
        )
    same, _ = SwAVConfig().preflight_modalities({"CT": 9000, "US": 400}, 256)
    assert same == SwAVConfig().preflight(9400, 256)[0]


def two_steps() -> list:
    """Gradients and state of this process's part after two steps; groups alternate in a part."""
    swav = two_modalities().double()
    convert_sync_batch_norm(swav)
    world = dist.get_world_size() if dist.is_initialized() else 1
    rank, size = (dist.get_rank() if world > 1 else 0), 8
    model = DistributedDataParallel(swav, broadcast_buffers=False) if world > 1 else swav
    optimizer = torch.optim.SGD(swav.parameters(), lr=0.01)
    out = []
    for step in range(3):  # the queues are full, and used, in the third
        batch = mixed_batch(size, [0, 1] * (size // 2), seed=step, dtype=torch.float64)
        optimizer.zero_grad()
        model(part_of(batch, rank, world), progress(step)).loss.backward()
        out += [p.grad.numpy().copy() for p in swav.parameters()]
        optimizer.step()
        swav.after_update(progress(step))
    return out + [v.detach().double().numpy() for v in swav.state_dict().values()]


@pytest.mark.ddp
def test_per_modality__two_processes_equal_one():
    expected = two_steps()
    for found in run_ranks(two_steps, 2):
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-10)
