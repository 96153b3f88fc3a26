import math

import pytest
import torch
from tests.methods.objectives import make_batch, progress, small_backbone, sweep_of

from scoutview.base.errors import ConfigError
from scoutview.methods.pcl_v1 import PCLV1Config
from scoutview.methods.pcl_v2 import PCL, PCLV2Config
from scoutview.train.monitor import CollapseMonitor


def method(**settings) -> PCL:
    torch.manual_seed(0)
    values = {"hidden_dim": 16, "output_dim": 8, "clusters": (4, 6), "queue_length": 8}
    values |= {"prototype_warmup": 0.0, **settings}
    return PCL(small_backbone(), PCLV2Config(**values), dataset_size=64)


def never():
    raise AssertionError("the warm-up needs no sweep")


def test_preflight__lowers_clusters_in_proportion_and_the_queue_to_the_data():
    config, notes = PCLV2Config().preflight(4708, 256)
    assert config.clusters == (117, 235, 470)
    assert config.queue_length == 4608
    assert config.negative_prototypes == 470
    assert len(notes) == 3
    written = PCLV2Config(clusters=(100,), negative_prototypes=16000).preflight(4708, 256)[0]
    assert written.negative_prototypes == 16000, "all others, if there are fewer"
    with pytest.raises(ConfigError, match="clusters must be at most 2354"):
        PCLV2Config(clusters=(2355,)).preflight(4708, 256)
    with pytest.raises(ConfigError, match="at least the batch of 256"):
        PCLV2Config(queue_length=100).preflight(4708, 256)


def test_warm_up__has_the_instance_loss_only():
    pcl = method(prototype_warmup=0.5)
    batch = make_batch("pcl_v2", 8)
    pcl.between_epochs(never, progress(14))
    out = pcl(batch, progress(14))
    assert torch.equal(out.loss.detach(), out.logs["instance_loss"])
    assert float(out.logs["chance_loss"]) == pytest.approx(math.log(1 + 8))
    pcl.between_epochs(sweep_of("pcl_v2"), progress(15))
    out = pcl(batch, progress(15))
    both = out.logs["instance_loss"] + out.logs["prototype_loss"]
    torch.testing.assert_close(out.loss.detach(), both)
    assert float(out.logs["prototype_loss"]) > 0
    chance = math.log(1 + 8) + (math.log(4) + math.log(6)) / 2
    assert float(out.logs["chance_loss"]) == pytest.approx(chance)


def test_clusterings__are_those_of_the_teacher_in_evaluation_mode():
    pcl = method()
    with torch.no_grad():
        pcl.projector[0].weight.add_(1.0)  # the student differs from the teacher
    pcl.between_epochs(sweep_of("pcl_v2"), progress(0))
    assert pcl.training
    pcl.eval()
    with torch.no_grad():
        views = [batch.views[0] for batch in sweep_of("pcl_v2")()]
        keys = pcl.teacher_projector(pcl.teacher_backbone(torch.cat(views)))
    keys = torch.nn.functional.normalize(keys, dim=1)
    for prototypes in pcl.prototypes:
        members = [keys[prototypes.assignment == k] for k in range(len(prototypes))]
        means = torch.stack([own.mean(dim=0) for own in members])
        means = torch.nn.functional.normalize(means, dim=1)
        torch.testing.assert_close(prototypes.prototypes, means, rtol=1e-3, atol=1e-4)
    assert [len(p) for p in pcl.prototypes] == [4, 6]


def test_negatives__of_the_batch_are_a_named_option():
    batch = make_batch("pcl_v2", 8)
    losses = {}
    for kind in ("sampled", "batch"):
        pcl = method(prototype_negatives=kind)
        pcl.between_epochs(sweep_of("pcl_v2"), progress(0))
        out = pcl(batch, progress(0))
        losses[kind] = float(out.logs["prototype_loss"])
    assert losses["batch"] > losses["sampled"]  # eight columns of the batch, some of them the own


def test_version_1__differs_in_head_temperature_views_and_schedule():
    first, second = PCLV1Config(), PCLV2Config()
    differing = {
        name for name in PCLV2Config.model_fields if getattr(first, name) != getattr(second, name)
    }
    assert differing == {"views", "projector_layers", "temperature", "schedule"}


def test_largest_cluster__raises_the_alarm_when_the_teacher_says_the_same_of_all_images():
    pcl = method()
    monitor = CollapseMonitor(batch_size=16, dataset_size=64)
    batch, raised = make_batch("pcl_v2", 16), []
    for step in range(4):
        pcl.between_epochs(sweep_of("pcl_v2"), progress(step))
        logs = pcl(batch, progress(step)).logs
        raised.append(monitor.check(step, {"loss": 1.0, **{k: float(v) for k, v in logs.items()}}))
        with torch.no_grad():  # planted after the first epoch
            pcl.teacher_projector[-1].weight.zero_()
            pcl.teacher_projector[-1].bias.fill_(1.0)
    assert [[alarm.name for alarm in alarms] for alarms in raised] == [[], [], [], ["one_cluster"]]
