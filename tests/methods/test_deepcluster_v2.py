import math
from dataclasses import replace

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone, sweep_of

from scoutview.base.errors import ConfigError
from scoutview.methods.deepcluster_v2 import DeepClusterV2, DeepClusterV2Config
from scoutview.train.monitor import CollapseMonitor


def method(**settings) -> DeepClusterV2:
    torch.manual_seed(0)
    values = {"hidden_dim": 16, "output_dim": 8, "clusters": (4, 6, 5)} | settings
    return DeepClusterV2(small_backbone(), DeepClusterV2Config(**values), dataset_size=64)


def test_preflight__lowers_defaults_in_proportion_and_refuses_what_the_user_wrote():
    config, (note,) = DeepClusterV2Config().preflight(4708, 256)
    assert config.clusters == (470, 470, 470)
    assert "4708 training images" in note
    assert DeepClusterV2Config(clusters=(100, 470)).preflight(4708, 256)[1] == []
    with pytest.raises(ConfigError, match=r"at most 2354.*470 for 10 images"):
        DeepClusterV2Config(clusters=(10, 3000)).preflight(4708, 256)
    _, (thin,) = DeepClusterV2Config(clusters=(1000,)).preflight(4708, 256)
    assert "4.7 images each" in thin
    with pytest.raises(ConfigError, match="at least 2 to train, got 1"):
        DeepClusterV2Config(clusters=(10, 1)).preflight(4708, 256)
    with pytest.raises(ConfigError, match="two clusters of two images, there are 3"):
        DeepClusterV2Config().preflight(3, 2)


def test_first_epoch__clusters_evaluation_views_of_all_images():
    deep = method()
    deep.between_epochs(sweep_of("deepcluster_v2"), progress(0))
    assert deep.memory.filled.all()
    assert torch.equal(deep.memory.rows[0], deep.memory.rows[1])
    for head, prototypes in enumerate(deep.prototypes):
        torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(len(prototypes)))
        nearest = (deep.memory.rows[head % 2] @ prototypes.T).argmax(dim=1)
        assert torch.equal(deep.assignments[head], nearest)


def test_later_epochs__cluster_the_crops_of_training_head_by_head():
    deep = method()
    sweep = sweep_of("deepcluster_v2")
    deep.between_epochs(sweep, progress(0))
    for start in range(0, 64, 16):
        batch = make_batch("deepcluster_v2", 16, seed=start)
        deep(replace(batch, rows=batch.rows + start), progress(0))
        deep.after_update(progress(0))
    assert not torch.allclose(deep.memory.rows[0], deep.memory.rows[1])

    def never():
        raise AssertionError("the training set is swept once only")

    deep.between_epochs(never, progress(1))
    for head, prototypes in enumerate(deep.prototypes):  # head 2 clusters the first view again
        nearest = (deep.memory.rows[head % 2] @ prototypes.T).argmax(dim=1)
        assert torch.equal(deep.assignments[head], nearest)


def test_loss__ignores_images_without_a_cluster():
    deep = method()
    deep.between_epochs(sweep_of("deepcluster_v2"), progress(0))
    batch = make_batch("deepcluster_v2", 8)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 8, 8), dim=2)
    deep.assignments[:, 4:] = -100
    alone = deep.cluster_loss(embeddings[:, :4], batch.rows[:4])
    torch.testing.assert_close(deep.cluster_loss(embeddings, batch.rows), alone)
    deep.assignments.fill_(-100)
    assert float(deep.cluster_loss(embeddings, batch.rows)) == 0.0


def test_logs__hold_chance_level_and_the_largest_cluster():
    deep = method()
    deep.between_epochs(sweep_of("deepcluster_v2"), progress(0))
    logs = deep(make_batch("deepcluster_v2", 8), progress(0)).logs
    chance = (math.log(4) + math.log(6) + math.log(5)) / 3
    assert float(logs["chance_loss"]) == pytest.approx(chance)
    largest = max(
        torch.bincount(a, minlength=len(p)).max() / 64
        for a, p in zip(deep.assignments, deep.prototypes, strict=True)
    )
    assert float(logs["largest_cluster"]) == pytest.approx(float(largest))


def test_largest_cluster__raises_the_alarm_when_all_images_look_the_same():
    deep = method()
    deep.between_epochs(sweep_of("deepcluster_v2"), progress(0))
    monitor = CollapseMonitor(batch_size=16, dataset_size=64)
    batch, raised = make_batch("deepcluster_v2", 16), []
    for step in range(4):  # planted: from the second epoch on, the memory holds one vector
        logs = deep(batch, progress(step)).logs
        raised.append(monitor.check(step, {"loss": 1.0, **{k: float(v) for k, v in logs.items()}}))
        deep.memory.fill(torch.arange(64), torch.nn.functional.normalize(torch.ones(64, 8), dim=1))
        deep.between_epochs(sweep_of("deepcluster_v2"), progress(step + 1))
    assert [[alarm.name for alarm in alarms] for alarms in raised] == [[], [], [], ["one_cluster"]]
