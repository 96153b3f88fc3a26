from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from tests.methods.objectives import (
    make_batch,
    part_of,
    progress,
    small_backbone,
    small_config,
    sweep_of,
)
from tests.processes import run_ranks

from scoutview.base.errors import ConfigError
from scoutview.methods import build, config_class
from scoutview.methods.moco_v2 import MoCoV2, MoCoV2Config


def method(**settings) -> MoCoV2:
    torch.manual_seed(0)
    config = MoCoV2Config(hidden_dim=16, output_dim=8, queue_length=8, **settings)
    return MoCoV2(small_backbone(), config)


def test_preflight__lowers_the_default_queue_to_whole_batches_of_the_data():
    config, notes = MoCoV2Config().preflight(4708, 256)
    assert config.queue_length == 4608
    assert "65536" in notes[0]


def test_preflight__refuses_a_queue_that_the_user_wrote():
    assert MoCoV2Config(queue_length=4708).preflight(4708, 256)[0].queue_length == 4708
    with pytest.raises(ConfigError, match="at most 4708"):
        MoCoV2Config(queue_length=4709).preflight(4708, 256)
    with pytest.raises(ConfigError, match="at least the batch of 256"):
        MoCoV2Config(queue_length=100).preflight(4708, 256)


def test_after_update__stores_the_keys_of_the_step_and_moves_the_teacher():
    moco = method(momentum=0.5)
    before = moco.teacher_projector[0].weight.clone()
    moco(make_batch("moco_v2", 4), progress(0)).loss.backward()
    keys, _ = moco.queue.held[0]
    with torch.no_grad():
        moco.projector[0].weight.add_(1.0)
    moco.after_update(progress(0))
    assert torch.equal(moco.queue.rows[:4], keys)
    torch.testing.assert_close(moco.teacher_projector[0].weight, before + 0.5)


def test_accumulated_parts__are_all_stored():
    moco = method()
    for seed in (0, 1):
        moco(make_batch("moco_v2", 4, seed=seed), progress(0))
    moco.after_update(progress(0))
    assert moco.queue.count == 8


def shuffled_keys() -> list:
    """Keys of each process, with batch norm per process: shuffled, and not."""
    batch = part_of(make_batch("moco_v2", 8), dist.get_rank(), dist.get_world_size())
    out = []
    for shuffle in (True, False):
        moco = method(shuffle_batch_norm=shuffle)
        moco.teacher_backbone.eval()  # without batch statistics shuffling must change nothing
        out.append(moco._keys(batch.views[1], progress(0)).numpy())
    moco = method()
    out.append(moco._keys(batch.views[1], progress(0)).numpy())
    return out


@pytest.mark.ddp
def test_shuffled_batch_norm__brings_every_key_home_and_mixes_the_statistics():
    for evaluated, plain, trained in run_ranks(shuffled_keys, 2):
        torch.testing.assert_close(torch.from_numpy(evaluated), torch.from_numpy(plain))
        assert abs(trained - plain).max() > 1e-3


@pytest.mark.parametrize("name", ["moco_v2", "infomin", "pcl_v2", "simclr_v2"])
def test_lowered_queue__is_that_of_every_method_with_a_queue(name):
    kind = config_class(name)
    assert kind().preflight(4708, 256)[0].queue_length == 4608
    with pytest.raises(ConfigError, match="at least the batch of 256, got 100; raise it to 4708"):
        kind(queue_length=100).preflight(4708, 256)


@pytest.mark.parametrize("name", ["moco_v2", "infomin", "pcl_v2", "simclr_v2", "moco_v2_interclr"])
@pytest.mark.parametrize("own_keys", ["skip", "count"])
def test_loss__sees_old_keys_of_the_own_image_only_if_they_count(name, own_keys):
    torch.manual_seed(0)  # 8 images, batches of 4, and a queue of both batches
    config = small_config(name, queue_length=8, own_keys=own_keys)
    objective = build(name, small_backbone(), config, dataset_size=64).eval()
    queue = getattr(objective, "base", objective).queue
    first = make_batch(name, 4)
    with torch.no_grad():
        objective.between_epochs(sweep_of(name), progress(0))
        for step in range(2):
            objective(replace(first, rows=first.rows + 4 * step), progress(step))
            objective.after_update(progress(step))
        assert queue.images.tolist() == list(range(8))
        again, losses = replace(first, rows=torch.full((4,), 5)), []
        for changed in ([], [5], [1]):  # nothing, the key of image 5, that of another image
            queue.rows[changed] = queue.rows[changed].roll(1, dims=1)
            losses.append(float(objective(again, progress(2)).loss))
    assert (losses[1] == losses[0]) == (own_keys == "skip")
    assert losses[2] != losses[1]
