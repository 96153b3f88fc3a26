"""Hybrid training of every method, without naming any."""

import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from tests.methods.objectives import (
    LABELS,
    make_batch,
    part_of,
    progress,
    small_backbone,
    small_config,
    small_objective,
    sweep_of,
)
from tests.processes import run_ranks
from torch.nn.parallel import DistributedDataParallel

from scoutview.base.errors import ConfigError
from scoutview.contract import LabelSpec, Objective, StepOutput
from scoutview.methods import METHODS
from scoutview.methods.hybrid import Hybrid, HybridConfig
from scoutview.nn.backbones import BackboneConfig
from scoutview.nn.losses.supervised import image_label_loss
from scoutview.nn.sync_batch_norm import convert_sync_batch_norm
from scoutview.train.optimizers import parameter_groups

every_method = pytest.mark.parametrize("name", sorted(METHODS))


def hybrid(name: str, *, num_groups: int = 1, **settings) -> Hybrid:
    method = small_objective(name, config=small_config(name, queue_length=8))
    torch.manual_seed(2)
    return Hybrid(method, HybridConfig(**settings), labels=LABELS, num_groups=num_groups)


def mixed_batch(name: str, size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32):
    """Two modalities in turn; the second half of the images has no label."""
    batch = make_batch(name, size, seed=seed, dtype=dtype)
    targets = batch.targets.clone()
    targets[size // 2 :] = -100.0
    return replace(batch, targets=targets, groups=torch.arange(size) % 2)


def passes(objective: Objective, batch) -> int:
    """Images that the backbone sees in one step."""
    seen = []
    hook = objective.backbone.model.conv1.register_forward_hook(
        lambda module, given, output: seen.append(len(output))
    )
    objective(batch, progress(0))
    hook.remove()
    return sum(seen)


@every_method
def test_hybrid__trains_method_and_heads_in_one_pass(name):
    objective = hybrid(name, num_groups=2)
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    objective.between_epochs(sweep_of(name), progress(0))
    for step in range(15):
        out = objective(mixed_batch(name), progress(step))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        objective.after_update(progress(step))
        losses.append(float(out.logs["label_loss"]))
        assert float(out.logs["labelled"]) == 0.5
        parts = float(out.logs["self_supervised_loss"] + out.logs["label_loss"])
        assert float(out.loss.detach()) == pytest.approx(parts, rel=1e-5, abs=1e-6)
    assert losses[-1] < losses[0]
    for head in objective.label_heads:
        assert head[0].weight.grad.abs().max() > 0
    assert passes(objective, mixed_batch(name)) == passes(objective.method, mixed_batch(name))


@every_method
def test_hybrid__reads_the_first_view_at_a_level(name):
    """The mean of a ResNet's last stage is what its pooling gives, so both must agree."""
    objective = hybrid(name, level="layer4")
    with objective._tapped() as tapped:
        output = objective.method(mixed_batch(name), progress(0))
    found = objective._features(output, tapped, 8)
    torch.testing.assert_close(found, output.features)


@every_method
def test_hybrid__state_holds_all_that_training_depends_on(name):
    objective, copy = hybrid(name), hybrid(name)

    def steps(objective, first, count):
        optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.01)
        for step in range(first, first + count):
            loss = objective(mixed_batch(name, seed=step), progress(step)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.after_update(progress(step))
        return float(loss.detach())

    objective.between_epochs(sweep_of(name), progress(0))
    steps(objective, 0, 2)
    copy.load_state_dict(objective.state_dict())
    for each in (objective, copy):
        each.between_epochs(sweep_of(name), progress(2))
    assert steps(objective, 2, 2) == steps(copy, 2, 2)
    names = list(objective.state_dict())
    assert not [n for n in names if n.startswith("backbone.")]  # stored once


# --- two processes against one, all methods in one group of processes ------------------------


def two_steps(name: str, rank: int, world: int) -> list[dict[str, torch.Tensor]]:
    objective = hybrid(name, num_groups=2).double()
    convert_sync_batch_norm(objective)
    model = objective
    if world > 1:
        model = DistributedDataParallel(objective, broadcast_buffers=False)
    trainable = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trainable.values(), lr=0.01)
    out = []
    for step in range(2):
        sweep = sweep_of(name, rank, world, images=16, dtype=torch.float64, side=16)
        objective.between_epochs(sweep, progress(step))
        batch = mixed_batch(name, seed=step, dtype=torch.float64)
        optimizer.zero_grad()
        model(part_of(batch, rank, world), progress(step)).loss.backward()
        gradients = {n: p.grad.clone() for n, p in trainable.items()}
        optimizer.step()
        objective.after_update(progress(step))
        out.append(gradients)
    return out


def differences(file: str) -> dict[str, float]:
    """Largest deviation from the one-process gradients, as a share of their largest, by method."""
    expected = torch.load(file, weights_only=True, mmap=True)
    found = {}
    for name in sorted(METHODS):
        actual = two_steps(name, dist.get_rank(), dist.get_world_size())
        worst = 0.0
        for ours, theirs in zip(actual, expected[name], strict=True):
            scale = max(float(g.abs().max()) for g in theirs.values())
            gaps = [float((ours[n] - g).abs().max()) for n, g in theirs.items()]
            worst = max(worst, max(gaps) / scale)
        found[name] = worst
    return found


@pytest.mark.ddp
def test_hybrid__two_processes_give_the_gradient_of_one(tmp_path):
    """Labelled images stand in the first process alone."""
    file = str(tmp_path / "one.pt")
    torch.save({name: two_steps(name, 0, 1) for name in sorted(METHODS)}, file)
    for of_rank in run_ranks(differences, 2, file):
        assert {name: gap for name, gap in of_rank.items() if gap > 1e-10} == {}


# --- the criterion ---------------------------------------------------------------------------


class Fixed(Objective):
    """A method whose loss and features are known."""

    def __init__(self, detached=False):
        super().__init__()
        self.backbone = small_backbone()
        self.detached = detached

    def forward(self, batch, progress):
        features = self.backbone(batch.views[0])
        logs = {"chance_loss": torch.tensor(5.0)}
        features = features.detach() if self.detached else features
        return StepOutput(features.sum() * 0.0 + 3.0, logs, features)


def by_hand(objective: Hybrid, batch) -> list[float]:
    """Loss of each labelled image: mean of its known labels; equation 7 of arXiv:2201.01283."""
    features = objective.backbone(batch.views[0]).detach().double()
    losses = []
    for image, targets in enumerate(batch.targets.tolist()):
        head = objective.label_heads[int(batch.groups[image])][0]
        logits = head.weight.detach().double() @ features[image] + head.bias.detach().double()
        terms = [
            -math.log(1 / (1 + math.exp(-z if y == 1 else z)))
            for z, y in zip(logits.tolist(), targets, strict=True)
            if y != -100
        ]
        if terms:
            losses.append(sum(terms) / len(terms))
    return losses


@pytest.mark.parametrize("mean_over", ["images", "labelled"])
def test_loss__is_equation_7(mean_over):
    config = HybridConfig(alpha=0.5, beta=2.0, mean_over=mean_over)
    objective = Hybrid(Fixed(), config, labels=LABELS, num_groups=2)
    batch = mixed_batch("simclr")
    losses = by_hand(objective, batch)
    assert len(losses) == 4
    expected = 0.5 * 3.0 + 2.0 * sum(losses) / (8 if mean_over == "images" else 4)
    out = objective(batch, progress(0))
    assert float(out.loss.detach()) == pytest.approx(expected, rel=1e-4)
    chance = 0.5 * 5.0 + 2.0 * float(out.logs["label_loss"])
    assert float(out.logs["chance_loss"]) == pytest.approx(chance)


def test_heads__of_one_modality_learn_from_its_images_alone():
    objective = Hybrid(Fixed(), HybridConfig(), labels=LABELS, num_groups=2)
    batch = mixed_batch("simclr")
    targets = batch.targets.clone()
    targets[batch.groups == 1] = -100.0
    objective(replace(batch, targets=targets), progress(0)).loss.backward()
    assert objective.label_heads[0][0].weight.grad.abs().max() > 0
    assert objective.label_heads[1][0].weight.grad.abs().max() == 0
    assert len(Hybrid(Fixed(), HybridConfig(per_modality=False), labels=LABELS).label_heads) == 1


def test_batch_without_labels__leaves_the_method_alone():
    objective = Hybrid(Fixed(), HybridConfig(), labels=LABELS)
    batch = make_batch("simclr", 4)
    out = objective(replace(batch, targets=torch.full((4, 3), -100.0)), progress(0))
    assert float(out.loss.detach()) == 3.0
    out.loss.backward()
    assert objective.label_heads[0][0].weight.grad.abs().max() == 0


def test_image_label_loss__of_classes():
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    each, known = image_label_loss(logits, torch.tensor([1, -100]), ignore=-100, exclusive=True)
    expected = -2.0 + math.log(math.e + math.e**2 + 1)
    assert each.tolist() == [pytest.approx(expected), 0.0]
    assert known.tolist() == [True, False]


def test_hybrid__says_what_is_missing():
    with pytest.raises(ConfigError, match="needs labels"):
        Hybrid(Fixed(), HybridConfig(), labels=None)
    with pytest.raises(ConfigError, match=r"Unknown level of the network 'layer5'.*layer4"):
        Hybrid(Fixed(), HybridConfig(level="layer5"), labels=LABELS)
    objective = Hybrid(Fixed(), HybridConfig(), labels=LABELS)
    with pytest.raises(ConfigError, match="batch with targets"):
        objective(replace(make_batch("simclr", 4), targets=None), progress(0))
    with pytest.raises(ConfigError, match="do not detach"):
        Hybrid(Fixed(detached=True), HybridConfig(), labels=LABELS)(
            make_batch("simclr", 4), progress(0)
        )


def test_levels__of_a_transformer_are_its_blocks():
    backbone = small_backbone(BackboneConfig(name="test_vit"))
    method = Fixed()
    method.backbone = backbone
    labels = LabelSpec(kind="multiclass", names=("a", "b"))
    objective = Hybrid(method, HybridConfig(level="blocks.3", hidden_dim=8), labels=labels)
    images = torch.randn(2, 1, 160, 160)
    batch = replace(make_batch("simclr", 2), views=[images], targets=torch.tensor([0, -100]))
    objective(batch, progress(0)).loss.backward()
    assert objective.label_heads[0][0].weight.grad.abs().max() > 0
    assert backbone.model.blocks[3].mlp.fc1.weight.grad.abs().max() > 0
    assert backbone.model.blocks[5].mlp.fc1.weight.grad.abs().max() == 0


def test_constant_rate__of_a_part_of_the_method_is_kept():
    method = Fixed()
    method.predictor = torch.nn.Linear(16, 4)
    method.constant_rate = ("predictor",)
    objective = Hybrid(method, HybridConfig(), labels=LABELS)
    groups = parameter_groups(objective, small_config("simclr").optimizer)
    constant = [p for group in groups if not group["scheduled"] for p in group["params"]]
    assert {id(p) for p in constant} == {id(p) for p in method.predictor.parameters()}
