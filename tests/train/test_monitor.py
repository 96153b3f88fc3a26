import pytest
import torch
from tests.train.toy import Toy, ToySource, toy_config

from scoutview.methods import config_class
from scoutview.nn.queues import Queue
from scoutview.train.devices import start_fabric
from scoutview.train.monitor import PATIENCE, REMEDIES, CollapseMonitor, feature_health, queue_size

GOOD = {
    "loss": 3.0,
    "feature_std": 0.9,
    "effective_rank": 20.0,
    "projection_std": 0.8,
    "codes_used": 60.0,
}


def names(alarms):
    return [alarm.name for alarm in alarms]


def watched(*lines, **sizes):
    monitor = CollapseMonitor(**({"batch_size": 64, "dataset_size": 1000} | sizes))
    found = names(monitor.start())
    for step, line in enumerate(lines, start=1):
        found += names(monitor.check(50 * step, GOOD | line))
    return found


def test_monitor__stays_silent_on_good_numbers():
    assert watched(*[{}] * 20) == []


def test_monitor__small_batch_and_long_queue_are_named_before_training():
    assert watched(batch_size=4) == ["batch_too_small"]
    assert watched(queue_size=1001) == ["queue_longer_than_data"]
    assert watched(queue_size=1000) == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ({"feature_std": 0.01}, "collapsed_features"),
        ({"projection_std": 0.01}, "collapsed_features"),
        ({"effective_rank": 2.0}, "rank_falling"),
        ({"chance_loss": 2.99}, "loss_pinned"),
        ({"codes_used": 2.2}, "few_codes"),
    ],
)
def test_monitor__raises_each_alarm_once_after_some_checks(line, name):
    start = [{}, {}]
    assert watched(*start, *[line] * (PATIENCE - 1)) == []
    assert watched(*start, *[line] * (PATIENCE - 1), {}, line) == []
    assert watched(*start, *[line] * 3 * PATIENCE) == [name]


def test_monitor__shrinking_projections_count_where_a_loss_gains_by_them():
    shrunk = [{}, *[{"projection_std": 0.4}] * 5]
    assert watched(*shrunk) == ["collapsed_features"]
    assert watched(*[line | {"chance_loss": 6.0} for line in shrunk]) == []


def test_monitor__waits_before_it_calls_a_loss_pinned():
    monitor = CollapseMonitor(batch_size=64, dataset_size=1000)
    early = [monitor.check(step, GOOD | {"chance_loss": 3.0}) for step in range(1, 60)]
    assert not any(early)


def test_monitor__one_cluster_for_all_images_is_named():
    monitor = CollapseMonitor(batch_size=64, dataset_size=1000)
    found = [monitor.check(step, GOOD | {"largest_cluster": 0.97}) for step in range(PATIENCE)]
    assert [names(alarms) for alarms in found] == [[], [], ["one_cluster"]]
    healthy = CollapseMonitor(batch_size=64, dataset_size=1000)
    assert not any(healthy.check(s, GOOD | {"largest_cluster": 0.6}) for s in range(9))


@pytest.mark.parametrize("name", ["deepcluster_v2", "moco_v2_interclr"])
def test_one_cluster__its_remedy_names_a_setting_that_the_method_has(name):
    named = {word.strip(",;") for word in REMEDIES["one_cluster"].split() if "_" in word}
    assert named & set(config_class(name).model_fields)


def test_monitor__goes_on_from_its_state():
    line = GOOD | {"feature_std": 0.0}
    first = CollapseMonitor(batch_size=64, dataset_size=1000)
    for step in range(PATIENCE - 1):
        assert not first.check(step, line)
    second = CollapseMonitor(batch_size=64, dataset_size=1000)
    second.restore(first.state())
    assert names(second.check(PATIENCE, line)) == ["collapsed_features"]


def test_monitor__remembers_alarms_in_their_order():
    monitor = CollapseMonitor(batch_size=64, dataset_size=1000, queue_size=1001)
    monitor.start()
    for step in range(PATIENCE):
        monitor.check(step, GOOD | {"feature_std": 0.0})
    again = CollapseMonitor(batch_size=64, dataset_size=1000)
    again.restore(monitor.state())
    assert again.raised == ("queue_longer_than_data", "collapsed_features")


def test_alarm__says_what_to_do():
    monitor = CollapseMonitor(batch_size=2, dataset_size=1000)
    (alarm,) = monitor.start()
    assert REMEDIES["batch_too_small"] in str(alarm)


def test_queue_size__finds_the_longest_queue():
    module = torch.nn.ModuleList([Queue(8, 4, random=True), Queue(16, 4, random=False)])
    assert queue_size(module) == 16
    assert queue_size(torch.nn.Linear(2, 2)) == 0


def test_feature_health__measures_without_a_trace():
    objective, batch = Toy(), ToySource(8).batch(0)
    fabric = start_fabric(toy_config())
    objective.train()
    objective.projector.eval()
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    random = torch.get_rng_state()
    health = feature_health(objective, batch, fabric)
    assert set(health) == {
        "feature_std",
        "effective_rank",
        "uniformity",
        "alignment",
        "projection_std",
    }
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert objective.backbone.training
    assert not objective.projector.training
    with torch.no_grad():
        objective.eval()
        features = torch.nn.functional.normalize(objective.backbone(batch.views[0]), dim=1)
        by_hand = features.std(dim=0).mean() * 8**0.5
    assert health["feature_std"] == pytest.approx(float(by_hand), rel=1e-5)
