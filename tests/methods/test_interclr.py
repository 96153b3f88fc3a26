"""What is special about the three methods with an inter-image branch."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.methods.objectives import (
    make_batch,
    part_of,
    progress,
    small_backbone,
    small_config,
)
from tests.processes import run_ranks

from scoutview.base.errors import ConfigError
from scoutview.contract import Progress
from scoutview.methods import config_class, method_class
from scoutview.methods.inter_branch import InterBranch, fill
from scoutview.methods.moco_v2_interclr import MoCoV2InterCLRConfig
from scoutview.nn.banks import MemoryBank
from scoutview.nn.losses.contrastive import info_nce
from scoutview.nn.precision import unit
from scoutview.train.monitor import CollapseMonitor

NAMES = ("npid_v2_interclr", "moco_v2_interclr", "byol_interclr")
IMAGES = 64
every_name = pytest.mark.parametrize("name", NAMES)


def method(name, **settings):
    torch.manual_seed(0)
    return method_class(name)(
        small_backbone(), small_config(name, **settings), dataset_size=IMAGES
    ).double()


def bank_of(objective) -> MemoryBank:
    return getattr(objective, "bank", None) or objective.base.bank


def sweep_of(name, size=IMAGES):
    def sweep():
        for start in range(0, size, 16):
            batch = make_batch(name, 16, seed=start, dtype=torch.float64)
            yield replace(batch, views=batch.views[:1], rows=torch.arange(start, start + 16))

    return sweep


def trained_step(objective, name, step, size=8):
    batch = make_batch(name, size, seed=step, dtype=torch.float64)
    rows = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(step))[:size]
    out = objective(replace(batch, rows=rows), progress(step))
    objective.after_update(progress(step))
    return rows, out


@every_name
def test_start__fills_the_bank_with_features_and_clusters_it(name):
    objective = method(name)
    modes = [m.training for m in objective.modules()]
    objective.between_epochs(sweep_of(name), progress(0))
    assert modes == [m.training for m in objective.modules()]
    base = objective.base
    backbone = getattr(base, "teacher_backbone", base.backbone).eval()
    projector = getattr(base, "teacher_projector", base.projector).eval()
    with torch.no_grad():
        for batch in sweep_of(name)():
            expected = unit(projector(backbone(batch.views[0])))
            torch.testing.assert_close(bank_of(objective).rows[batch.rows], expected)
    clusters = objective.inter.kmeans
    nearest = torch.cdist(bank_of(objective).rows, clusters.centroids).argmin(dim=1)
    assert (nearest == clusters.labels).double().mean() > 0.95  # k-means has all but converged
    assert int(clusters.counts.min()) >= 2


@every_name
def test_clusters__follow_every_step_without_drift(name):
    objective = method(name, refresh_every=10**6)
    objective.between_epochs(sweep_of(name), progress(0))
    clusters, bank = objective.inter.kmeans, bank_of(objective)
    for step in range(5):
        centroids = clusters.centroids.clone()
        rows, _ = trained_step(objective, name, step)
        nearest = torch.cdist(bank.rows[rows], centroids).argmin(dim=1)
        assert torch.equal(clusters.labels[rows].long(), nearest)
    sums = torch.zeros_like(clusters.sums).index_add_(0, clusters.labels, bank.rows)
    torch.testing.assert_close(clusters.sums, sums)
    assert clusters.counts.tolist() == torch.bincount(clusters.labels, minlength=4).tolist()
    assert clusters.buckets.sizes.tolist() == clusters.counts.tolist()


@every_name
def test_offline_labels__change_between_epochs_only(name):
    objective = method(name, relabel="offline")
    objective.between_epochs(sweep_of(name), progress(0))
    labels = objective.inter.kmeans.labels.clone()
    for step in range(3):
        trained_step(objective, name, step)
    assert torch.equal(objective.inter.kmeans.labels, labels)
    before = bank_of(objective).rows.clone()
    objective.between_epochs(sweep_of(name), progress(1))
    assert torch.equal(bank_of(objective).rows, before)  # no second pass over the images
    assert not torch.equal(objective.inter.kmeans.labels, labels)


@every_name
def test_online_labels__are_left_alone_between_epochs(name):
    objective = method(name)
    objective.between_epochs(sweep_of(name), progress(0))
    trained_step(objective, name, 0)
    labels = objective.inter.kmeans.labels.clone()
    objective.between_epochs(sweep_of(name), progress(1))
    assert torch.equal(objective.inter.kmeans.labels, labels)


@every_name
def test_branch__joins_in_its_epoch(name):
    objective = method(name, inter_from_epoch=2, intra_weight=0.5)
    batch = make_batch(name, 8, dtype=torch.float64)
    early, late = (objective(batch, progress(epoch)) for epoch in (1, 2))
    assert float(early.loss.detach()) == float(early.logs["intra_loss"])
    mean = 0.5 * (late.logs["intra_loss"] + late.logs["inter_loss"])
    assert float(late.loss.detach()) == pytest.approx(float(mean))


@every_name
def test_without_the_branch__it_is_the_base_method(name):
    """Same weights, queue and bank: the same loss and gradient as the base."""
    objective = method(name, intra_weight=1.0)
    batch = make_batch(name, 8, dtype=torch.float64)
    own = objective(batch, progress(0))
    own.loss.backward()
    gradient = next(objective.base.projector.parameters()).grad.clone()
    objective.zero_grad()
    base = objective.base(batch, progress(0))
    base.loss.backward()
    torch.testing.assert_close(own.loss, base.loss)
    torch.testing.assert_close(gradient, next(objective.base.projector.parameters()).grad)


@every_name
def test_separate_head__starts_as_a_copy_and_gets_its_own_gradient(name):
    shared, separate = method(name), method(name, separate_head=True)
    batch = make_batch(name, 8, dtype=torch.float64)
    losses = [o(batch, progress(0)).loss for o in (shared, separate)]
    torch.testing.assert_close(*losses)
    losses[1].backward()
    assert all(p.grad.abs().max() > 0 for p in separate.inter_head.parameters())
    separate.zero_grad()
    waiting = method(name, separate_head=True, inter_from_epoch=5)
    waiting(batch, progress(0)).loss.backward()
    assert all(p.grad is not None for p in waiting.inter_head.parameters())  # DDP waits for each


def cosine_margin(cosine: float) -> float:
    return cosine + 0.5


def arc_margin(cosine: float) -> float:
    return math.cos(math.acos(cosine) + 0.2)


@pytest.mark.parametrize(
    ("asked", "settings"),
    [(cosine_margin, {}), (arc_margin, {"margin_form": "arc", "inter_margin": 0.2})],
)
def test_inter_loss__equals_the_equation_of_the_paper(asked, settings):
    name = "moco_v2_interclr"
    objective = method(name, inter_negatives=200, temperature=0.3, **settings)
    objective.between_epochs(sweep_of(name), progress(0))
    batch = make_batch(name, 8, dtype=torch.float64)
    out = objective(batch, progress(0))
    branch, bank = objective.inter, objective.bank
    labels, rows = branch.kmeans.labels, bank.rows
    with torch.no_grad():
        query = unit(objective.base.projector(objective.base.backbone(batch.views[0])))
    positive = branch.positives(bank, batch.rows, progress(0))
    total = 0.0
    for i, q in enumerate(query):
        candidates = sorted((float(q @ r) for r in rows[labels != labels[i]]), reverse=True)
        pool = candidates[: math.ceil(len(candidates) / 10)]
        own = math.exp(asked(float(q @ positive[i])) / 0.3)
        total -= math.log(own / (own + sum(math.exp(c / 0.3) for c in pool))) / len(query)
    assert float(out.logs["inter_loss"]) == pytest.approx(total)


def test_inter_loss__of_byol_predicts_an_image_of_the_cluster_from_both_views():
    name = "byol_interclr"
    objective = method(name)
    objective.between_epochs(sweep_of(name), progress(0))
    batch = make_batch(name, 8, dtype=torch.float64)
    out = objective(batch, progress(0))
    positive = objective.inter.positives(objective.bank, batch.rows, progress(0))
    total = 0.0
    with torch.no_grad():
        for view in batch.views:
            predicted = objective.predictor(objective.projector(objective.backbone(view)))
            total += float((2 - 2 * F.cosine_similarity(predicted, positive)).mean())
    assert float(out.logs["inter_loss"]) == pytest.approx(total)
    targets = objective.base.encode(batch)[2]
    own = sum(float((2 - 2 * F.cosine_similarity(t, positive)).mean()) for t in targets)
    assert own > 0.1  # another image, not the teacher's view of this one


def test_positives__are_other_members_of_the_cluster():
    objective = method("moco_v2_interclr")
    objective.between_epochs(sweep_of("moco_v2_interclr"), progress(0))
    branch, bank = objective.inter, objective.bank
    rows = torch.arange(IMAGES)
    seen = set()
    for step in range(30):
        found = branch.positives(bank, rows, progress(step))
        drawn = torch.cdist(found, bank.rows).argmin(dim=1)
        assert torch.equal(branch.kmeans.labels[drawn], branch.kmeans.labels[rows])
        assert not (drawn == rows).any()
        seen.add(int(drawn[0]))
    assert len(seen) > 3


@pytest.mark.parametrize("name", ["npid_v2_interclr", "moco_v2_interclr"])
def test_chance_loss__is_the_loss_of_a_collapsed_network(name):
    objective = method(name, intra_margin=0.2)
    bank_of(objective).rows.copy_(torch.eye(16)[0].expand(IMAGES, 16))
    if name == "moco_v2_interclr":
        objective.base.queue.rows.copy_(torch.eye(16)[0].expand(8, 16))
    for head in (objective.projector, getattr(objective.base, "teacher_projector", None)):
        for layer in [] if head is None else [head[-1]]:
            torch.nn.init.zeros_(layer.weight)
            layer.bias.data.copy_(torch.eye(16)[0])
    out = objective(make_batch(name, 8, dtype=torch.float64), progress(0))
    assert float(out.logs["chance_loss"]) == pytest.approx(float(out.loss.detach()))


@every_name
def test_preflight__fits_the_defaults_to_the_data(name):
    config, notes = config_class(name)().preflight(4708, 256)
    assert config.inter_clusters == 4708 // 128
    assert config.min_cluster == 20
    if name != "byol_interclr":
        assert config.inter_negatives == math.ceil((4708 - 4708 // 36) / 10)
    assert any("inter_clusters lowered from 10000 to 36" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inter_clusters": 3000}, "inter_clusters must be at most 2354"),
        ({"inter_clusters": 400, "min_cluster": 20}, "inter_clusters must be at most 235"),
        ({"min_cluster": 3000}, "min_cluster must be at most 2354"),
        ({"inter_clusters": 1}, "at least 2"),
        ({"inter_negatives": 500}, "inter_negatives must be at most 458"),
        ({"inter_negatives": 4600, "sampling": "hard"}, "inter_negatives must be at most 4578"),
    ],
)
def test_preflight__refuses_what_the_user_wrote_and_names_the_largest(settings, message):
    with pytest.raises(ConfigError, match=message):
        MoCoV2InterCLRConfig(**settings).preflight(4708, 256)


@pytest.mark.parametrize(
    "settings",
    [
        {"inter_clusters": 2354},
        {"inter_clusters": 235, "min_cluster": 20},
        {"min_cluster": 2354},
        {"inter_negatives": 458},
        {"inter_negatives": 4578, "sampling": "hard"},
    ],
)
def test_preflight__takes_the_largest_that_it_names(settings):
    config, notes = MoCoV2InterCLRConfig(**settings).preflight(4708, 256)
    assert {name: getattr(config, name) for name in settings} == settings
    thin = settings.get("inter_clusters", 0) > 470
    assert any("fewer than 10" in note for note in notes) == thin
    bank = MemoryBank(4708, 4)
    InterBranch(config, bank, 4)


def test_preflight__refuses_data_without_two_clusters():
    with pytest.raises(ConfigError, match="two clusters of two images"):
        MoCoV2InterCLRConfig().preflight(3, 2)


@every_name
def test_tiny_data__trains_with_every_sampling(name):
    """Twelve images in two clusters, one of which takes nearly all: nothing fails or is NaN."""
    kind = config_class(name)
    samplings = ("semihard", "hard", "random", "semieasy") if name != "byol_interclr" else (None,)
    for sampling in samplings:
        settings = {"hidden_dim": 8, "output_dim": 8, "refresh_every": 2}
        if sampling:
            settings["sampling"] = sampling
        config, _ = kind(**settings).preflight(12, 4)
        objective = method_class(name)(small_backbone(), config, dataset_size=12)
        bank = bank_of(objective)
        objective.inter.kmeans.start(bank, (torch.arange(12) == 11).int())
        for step in range(3):
            batch = replace(make_batch(name, 4, seed=step), rows=torch.tensor([0, 3, 7, 11]))
            where = Progress(step, 3, step, 3, 12)
            loss = objective(batch, where).loss
            loss.backward()
            assert math.isfinite(float(loss.detach()))
            assert all(torch.isfinite(p.grad).all() for p in objective.base.projector.parameters())
            objective.after_update(where)


def test_intra_margin__asks_for_more():
    batch = make_batch("moco_v2_interclr", 8, dtype=torch.float64)
    without, with_ = (
        method("moco_v2_interclr", intra_margin=m)(batch, progress(0)).logs["intra_loss"]
        for m in (0.0, 0.3)
    )
    assert float(with_) > float(without)


def shards(settings: dict) -> dict:
    """Two steps with whole banks and with shards: loss, gradient, bank and labels."""
    out = {}
    name = "moco_v2_interclr"
    for sharded in (False, True):
        objective = method(name, shard_bank=sharded, refresh_every=2, **settings)
        first = dist.get_rank() * IMAGES // 2

        def sweep(first=first):
            for start in range(first, first + IMAGES // 2, 16):
                batch = make_batch(name, 16, seed=start, dtype=torch.float64)
                yield replace(batch, views=batch.views[:1], rows=torch.arange(start, start + 16))

        objective.between_epochs(sweep, progress(0))
        for step in range(2):
            batch = make_batch(name, 8, seed=step, dtype=torch.float64)
            batch = part_of(batch, dist.get_rank(), dist.get_world_size())
            loss = objective(batch, progress(step)).loss
            loss.backward()
            objective.after_update(progress(step))
        everything = torch.arange(IMAGES)
        out[sharded] = {
            "loss": loss.detach().numpy(),
            "gradient": next(objective.base.projector.parameters()).grad.numpy(),
            "bank": objective.bank.read(everything, same=True).numpy(),
            "labels": objective.inter.kmeans.labels.numpy(),
            "bytes": objective.bank.rows.nbytes,
        }
    return out


PART = {"inter_negatives": 4, "pool_share": 0.25}
"""Negatives from a part of the bank, which small banks do not need."""


@pytest.mark.ddp
@pytest.mark.parametrize("settings", [{}, PART, {"inter_negatives": 4, "sampling": "random"}])
def test_sharded_bank__gives_the_same_training_with_half_of_the_bytes(settings):
    for found in run_ranks(shards, 2, settings):
        whole, sharded = found[False], found[True]
        for key in ("loss", "gradient", "bank", "labels"):
            torch.testing.assert_close(
                torch.as_tensor(sharded[key]), torch.as_tensor(whole[key]), rtol=1e-10, atol=1e-10
            )
        assert sharded["bytes"] <= whole["bytes"] / 2 + 16 * 8


def test_fill__leaves_unknown_rows_as_they_are():
    bank = MemoryBank(6, 4).double()
    before = bank.rows.clone()
    values = F.normalize(torch.randn(2, 4, dtype=torch.float64), dim=1)
    fill(bank, torch.tensor([4, 1]), values)
    torch.testing.assert_close(bank.rows[[4, 1]], values)
    torch.testing.assert_close(bank.rows[[0, 2, 3, 5]], before[[0, 2, 3, 5]])


def test_base_loss__of_npid_is_info_nce_over_the_bank():
    objective = method("npid_v2_interclr")
    batch = make_batch("npid_v2_interclr", 8, dtype=torch.float64)
    out = objective(batch, progress(0))
    _, query, itself, others = objective.base.encode(batch, progress(0))
    expected = info_nce(query, itself, others, temperature=0.1)
    torch.testing.assert_close(out.logs["intra_loss"], expected.detach())


@every_name
def test_largest_cluster__raises_the_alarm_when_all_images_look_the_same(name):
    rarely = {"min_cluster": 1, "refresh_every": 1000}  # repair splits so few images for ever
    objective = method(name, queue_length=16, **rarely)
    objective.between_epochs(sweep_of(name), progress(0))
    heads = (objective.base.projector, getattr(objective.base, "teacher_projector", None))
    monitor, raised = CollapseMonitor(batch_size=16, dataset_size=IMAGES), []
    for step in range(30):
        logs = trained_step(objective, name, step, size=16)[1].logs
        line = {"loss": 1.0, **{key: float(value) for key, value in logs.items()}}
        raised += [alarm.name for alarm in monitor.check(step, line)]
        for head in filter(None, heads):  # planted after the first step
            with torch.no_grad():
                head[-1].weight.zero_()
                head[-1].bias.fill_(1.0)
    assert raised == ["one_cluster"]
