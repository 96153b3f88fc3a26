"""What every method must do. New methods are found by themselves."""

import inspect
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.methods.objectives import (
    LABELS,
    TINY,
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
from scoutview.contract import Objective
from scoutview.data.batch import Batch
from scoutview.methods import METHODS, build, config_class, method_class
from scoutview.nn.backbones import BackboneConfig
from scoutview.nn.sync_batch_norm import convert_sync_batch_norm

RESNET18 = BackboneConfig(name="resnet18", small_stem=True)
NARROW = RESNET18.model_copy(update={"stage_widths": (16, 32, 64, 128)})
"""For all methods; the whole network takes minutes, so `test_networks` has it for a few."""
GLOBAL_BATCH = 4
SIDE = 16
EPOCH = 10
"""Steps of `train` between two calls of `between_epochs`."""
WORLD = 2

every_method = pytest.mark.parametrize("name", sorted(METHODS))


def fields(setting: str) -> list[str]:
    """Methods that have a setting."""
    return [name for name in sorted(METHODS) if setting in config_class(name).model_fields]


def started(name: str) -> Objective:
    """A small objective at the start of its first epoch."""
    objective = small_objective(name)
    objective.between_epochs(sweep_of(name), progress(0))
    return objective


def train(
    name: str, objective: Objective, steps: int, lr: float = 3e-3, first: int = 0
) -> tuple[list[float], dict[str, float]]:
    """Adam on one batch: losses, and the largest gradient entry of each parameter.

    Where targets move, the least loss that they allow (`loss_floor`) is taken off.
    """
    trainable = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trainable.values(), lr=lr)
    losses, largest = [], dict.fromkeys(trainable, 0.0)
    for step in range(first, first + steps):
        if step % EPOCH == 0:
            objective.between_epochs(sweep_of(name), progress(step))
        out = objective(make_batch(name, 8, seed=0), progress(step))
        loss = out.loss
        optimizer.zero_grad()
        loss.backward()
        for n, p in trainable.items():
            assert p.grad is not None, f"{n} got no gradient"
            largest[n] = max(largest[n], float(p.grad.abs().max()))
        optimizer.step()
        objective.after_update(progress(step))
        losses.append(float(loss.detach() - out.logs.get("loss_floor", 0.0)))
    return losses, largest


@every_method
def test_loss__is_a_finite_scalar_with_features_and_detached_logs(name):
    objective = small_objective(name)
    assert math.isfinite(float(objective(make_batch(name, 8), progress(0)).loss.detach()))
    objective = started(name)
    batch = make_batch(name, 8)
    out = objective(batch, progress(0))
    assert out.loss.shape == ()
    assert math.isfinite(float(out.loss.detach()))
    assert out.loss.requires_grad
    assert out.features.shape == (8, objective.backbone.dim)
    assert out.features.requires_grad, "return the features with their graph"
    assert all(v.shape == () and not v.requires_grad for v in out.logs.values())


@every_method
def test_training__lowers_the_loss_and_reaches_every_parameter(name):
    losses, largest = train(name, small_objective(name), steps=30)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < sum(losses[2:7])
    assert min(largest.values()) > 0, min(largest, key=largest.get)


@every_method
def test_state_dict__holds_all_that_training_depends_on(name):
    resumed_equal(name)


@pytest.mark.parametrize("name", fields("relabel"))
def test_state_dict__holds_labels_that_are_made_offline(name):
    resumed_equal(name, relabel="offline")


def resumed_equal(name: str, **changes: object) -> None:
    """A copy loaded after five steps takes the same sixth and seventh step, bit for bit."""
    config = small_config(name, **changes)
    objective, copy = (small_objective(name, config=config) for _ in range(2))
    train(name, objective, steps=5)
    copy.load_state_dict(objective.state_dict())
    results = [train(name, o, steps=2, first=5)[0] for o in (objective, copy)]
    assert results[0] == results[1]
    for key, value in objective.state_dict().items():
        assert torch.equal(value, copy.state_dict()[key]), key


@every_method
def test_bf16_autocast__gives_a_float32_loss_near_the_full_one(name):
    objective = started(name)
    batch = make_batch(name, 8)
    full = float(objective(batch, progress(0)).loss.detach())
    objective = started(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = objective(batch, progress(0))
    assert out.loss.dtype == torch.float32
    assert float(out.loss.detach()) == pytest.approx(full, rel=0.05, abs=0.02)  # some pass 0
    out.loss.backward()


@every_method
def test_channels_last__gives_the_same_loss(name):
    batch = make_batch(name, 8)
    full = float(started(name)(batch, progress(0)).loss.detach())
    objective = started(name).to(memory_format=torch.channels_last)
    assert float(objective(batch, progress(0)).loss.detach()) == pytest.approx(full, rel=1e-4)


@every_method
def test_teacher_and_buffers__take_no_gradient(name):
    """Even teachers that ask for a gradient get none: no graph passes through them."""
    objective = started(name)
    frozen = {n: p for n, p in objective.named_parameters() if not p.requires_grad}
    teachers = {n for n, _ in objective.named_parameters() if ".teacher_" in f".{n}"}
    assert set(frozen) == teachers
    for parameter in frozen.values():
        parameter.requires_grad_(True)
    objective(make_batch(name, 8), progress(0)).loss.backward()
    assert [n for n, p in frozen.items() if p.grad is not None] == []
    objective.after_update(progress(0))
    assert [n for n, b in objective.named_buffers() if b.requires_grad] == []


@every_method
def test_two_parts__leave_the_state_of_one_batch(name):
    """Queues, banks and clusters take all parts of a step, and nothing waits for the next one.

    Norms use their running statistics here, which do not depend on how a batch is divided.
    """
    batch, states = make_batch(name, 8), []
    for parts in (1, 2):
        objective = started(name).double().eval()
        for part in range(parts):
            objective(in_double(part_of(batch, part, parts)), progress(1)).loss.backward()
        objective.after_update(progress(1))
        states.append(objective.state_dict())
        waiting = [
            attribute
            for module in objective.modules()
            for attribute, value in vars(module).items()
            if isinstance(value, list) and any(has_tensor(entry) for entry in value)
        ]
        assert waiting == []
    for key, value in states[0].items():
        if key.endswith("log_z"):  # the first part measures it, so that all parts use the same
            continue
        one, two = value, states[1][key]
        if "queue" in key and value.ndim == 2:  # rows of one step have no order among themselves
            one, two = one[one[:, 0].argsort()], two[two[:, 0].argsort()]
        torch.testing.assert_close(two, one, msg=lambda m, key=key: f"{key}: {m}")


def in_double(batch: Batch) -> Batch:
    return replace(batch, views=[view.double() for view in batch.views])


def has_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, list | tuple) and any(has_tensor(entry) for entry in value)
    )


@every_method
def test_config__survives_a_round_trip_and_refuses_unknown_keys(name):
    kind = config_class(name)
    config = kind()
    assert kind.build(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="Unknown setting"):
        kind.build({"temprature": 1})


@every_method
def test_config__documents_every_setting(name):
    undocumented = [n for n, f in config_class(name).model_fields.items() if not f.description]
    assert undocumented == []


@every_method
@pytest.mark.parametrize(("images", "batch"), [(40, 8), (4708, 256), (10**6, 4096)])
def test_preflight__makes_the_defaults_work(name, images, batch):
    config, notes = config_class(name)().preflight(images, batch)
    assert all(isinstance(note, str) and note.endswith(".") for note in notes)
    again, _ = config.preflight(images, batch)
    assert again == config


@every_method
def test_preflight__leaves_defaults_that_train_on_forty_images(name):
    """Only the widths are made small; every other default is the code's or preflight's."""
    config, _ = config_class(name)().preflight(40, 8)
    widths = {n: 16 for n in ("hidden_dim", "output_dim") if n in type(config).model_fields}
    config = config.model_copy(update=widths)
    objective = build(name, small_backbone(), config, dataset_size=40, labels=LABELS)
    for step in range(2):
        now = replace(progress(step), dataset_size=40)
        objective.between_epochs(sweep_of(name, images=40), now)
        loss = objective(make_batch(name, 8, seed=step), now).loss
        loss.backward()
        objective.after_update(now)
        assert math.isfinite(float(loss.detach()))


@every_method
def test_file__is_one_method_section(name):
    """Conventions: at most 250 lines, inherits from Objective alone, names its source."""
    assert method_class(name).__bases__ == (Objective,)
    text = Path(inspect.getfile(config_class(name))).read_text()  # two names may share a class
    assert len(text.splitlines()) <= 250
    assert "Source:" in text.split('"""')[1]
    assert "Deviations:" in text.split('"""')[1]


@every_method
def test_page__exists_and_has_its_sections(name):
    page = Path(__file__).parents[2] / "docs" / "methods" / f"{name}.md"
    text = page.read_text()
    for heading in ("## Idea", "## Defaults", "## Cost", "## Deviations", "## When to choose it"):
        assert heading in text, heading
    before, _, _ = text.partition("## Defaults")
    assert before.count("```") == 2, "show the flow of data before the defaults"


@every_method
def test_page__shows_the_defaults_of_the_code(name):
    """Each setting, views and optimiser too, stands in the table as the tool would write it."""
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "generate_tables.py"))
    page = Path(__file__).parents[2] / "docs" / "methods" / f"{name}.md"
    assert page.read_text() == tool["with_defaults"](name), "python tools/generate_tables.py"


def test_build__refuses_unknown_names_and_foreign_configs():
    names = sorted(METHODS)
    with pytest.raises(ConfigError, match="Did you mean"):
        build(names[0] + "x", small_backbone(), small_config(names[0]), dataset_size=8)
    with pytest.raises(ConfigError, match="needs a"):
        build(names[0], small_backbone(), small_config(names[1]), dataset_size=8)


# --- two processes against one ---------------------------------------------------------------


Tensors = dict[str, torch.Tensor]


def two_steps(
    name: str,
    rank: int,
    world: int,
    network: BackboneConfig = NARROW,
    side: int = SIDE,
    **changes: object,
) -> tuple[list[Tensors], Tensors]:
    """Two SGD steps on the part of this process, float64: gradients of both, state at the end."""
    config = small_config(name, queue_length=GLOBAL_BATCH, **changes)  # full from the second step
    objective = small_objective(name, small_backbone(network), config).double()
    convert_sync_batch_norm(objective)
    wrapped = objective
    if world > 1:
        wrapped = DistributedDataParallel(objective, broadcast_buffers=False)
    trainable = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trainable.values(), lr=0.01, momentum=0.9)
    gradients = []
    for step in range(2):
        sweep = sweep_of(name, rank, world, images=16, dtype=torch.float64, side=side)
        objective.between_epochs(sweep, progress(step))
        batch = make_batch(name, GLOBAL_BATCH, seed=step, dtype=torch.float64, side=side)
        loss = wrapped(part_of(batch, rank, world), progress(step)).loss
        optimizer.zero_grad()
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in trainable.items()})
        optimizer.step()
        objective.after_update(progress(step))
    return gradients, objective.state_dict()


def differences(name: str, file: str) -> list[float]:
    """In one of several processes: largest deviations from the one-process run in `file`.

    Returns:
        Of the gradients of each step, as a share of their largest entry, and of the state.
    """
    return gaps(
        two_steps(name, dist.get_rank(), dist.get_world_size()),
        torch.load(file, weights_only=True, mmap=True),
    )


def gaps(
    found: tuple[list[Tensors], Tensors], expected: tuple[list[Tensors], Tensors]
) -> list[float]:
    out = []
    for ours, theirs in zip(found[0], expected[0], strict=True):
        scale = max(float(g.abs().max()) for g in theirs.values())
        out.append(max(largest(ours[n], g) for n, g in theirs.items()) / scale)
    return [*out, max(largest(found[1][n], v) for n, v in expected[1].items())]


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


@pytest.mark.ddp
@every_method
def test_two_processes__give_gradient_and_state_of_one(name, tmp_path):
    file = str(tmp_path / "one.pt")
    torch.save(two_steps(name, 0, 1), file)
    for of_rank in run_ranks(differences, WORLD, name, file):
        assert max(of_rank) < 1e-10, of_rank


CASES = (
    [(name, {"relabel": "offline"}) for name in fields("relabel")]
    + [(name, {"inter_negatives": 4, "pool_share": 0.25}) for name in fields("inter_negatives")]
    + [(name, {"inter_negatives": 4, "sampling": "random"}) for name in fields("inter_negatives")]
)
"""Ways that small tests do not take: labels from a clustering before every epoch, and negatives
from a part of the bank."""


def differences_of_cases(file: str) -> list[float]:
    """As `differences`, of all `CASES`: the largest of each."""
    expected = torch.load(file, weights_only=True, mmap=True)
    rank, world = dist.get_rank(), dist.get_world_size()
    return [
        max(gaps(two_steps(name, rank, world, TINY, **changes), one))
        for (name, changes), one in zip(CASES, expected, strict=True)
    ]


@pytest.mark.ddp
def test_two_processes__agree_where_settings_take_another_way(tmp_path):
    file = str(tmp_path / "one.pt")
    torch.save([two_steps(name, 0, 1, TINY, **changes) for name, changes in CASES], file)
    for of_rank in run_ranks(differences_of_cases, WORLD, file):
        found = {f"{name} {how}": gap for (name, how), gap in zip(CASES, of_rank, strict=True)}
        assert {case: gap for case, gap in found.items() if gap > 1e-10} == {}
