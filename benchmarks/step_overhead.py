"""Our whole training step of every method beside a bare step of the same networks.

Ours is `train.loop.fit` itself, with metrics, collapse monitor and progress, fed with one resident
batch: everything but the data. ResNet-18, 64 x 64, 3 channels, batch 64, 131,072 images; multi-crop
methods see their large crops only.

The floor is recorded, not written: one forward pass of the method says which networks it calls, on
what, and with or without gradient. The floor makes the same calls, goes backward from fixed
gradients of their results, and steps the same fused SGD. So it contains

- one network (simclr, barlow_twins, vicreg, ...): the views through backbone and projector, and
  through the predictor where there is one (simsiam), together or one by one as the method has it;
- teacher (moco_v1 to v3, byol, infomin, dino, pcl, ...): also the teacher's networks without
  gradient, on the views that it sees;
- bank (insdis, npid_v2): one view through backbone and projector;
- patches (pirl, infomin): also nine patches through backbone and jigsaw head;
- clusters (swav, deepcluster_v2, sela_v2): the crops through backbone and projector, not the
  products with prototypes; DINO's last layer is a layer of its head, so it is in;
- dense (pixpro): maps of both networks, projections of all places and their propagation;

and never queue, bank, sampling, clustering, loss, or the teacher's update. InterCLR methods are
also measured beside the whole step of the method that they extend.

Run: OMP_NUM_THREADS=1 python -m benchmarks.step_overhead --out step_overhead.json
"""

import copy
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.pairing import Ratio, Report, finish, paired, parser
from benchmarks.resident import (
    FULL,
    QUICK,
    SGD,
    Loop,
    Scale,
    extended,
    first_step,
    keep_memory,
    make_batch,
    make_objective,
    self_supervised,
    settings,
)
from torch import Tensor, nn

from scoutview.contract import Objective
from scoutview.data.batch import Batch
from scoutview.methods.inter_config import InterConfig
from scoutview.train.optimizers import build_optimizer

MOST = {"simclr": 1.02, "byol": 1.02, "barlow_twins": 1.02, "moco_v2": 1.03, "swav": 1.12}
"""Bars: time of our step over the floor's; the other methods' are stated."""
MOST_OVER_BASE = 1.15
"""Bar: time of a step of InterCLR over that of the method which it extends."""


@dataclass(frozen=True)
class Call:
    """One call of a network."""

    name: str
    part: nn.Module
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    gradient: bool
    source: int | None
    """The earlier call whose result is the first input."""

    def made(self, results: list[Tensor]) -> Tensor:
        """Make it again."""
        first = self.inputs[0] if self.source is None else results[self.source]
        with torch.set_grad_enabled(self.gradient):
            out: Tensor = self.part(first, *self.inputs[1:], **self.options)
        return out


def networks(objective: Objective) -> dict[nn.Module, str]:
    """Name the network that each module with or within parameters belongs to."""
    found: dict[nn.Module, str] = {}
    for name, child in objective.named_children():
        if isinstance(child, Objective):
            found |= networks(child)
        elif any(True for _ in child.parameters()):
            found |= dict.fromkeys(child.modules(), name)
    return found


@contextmanager
def recorded(objective: Objective) -> Iterator[list[Call]]:
    """Collect the outermost calls of networks that are made within the block."""
    calls: list[Call] = []
    results: dict[int, tuple[int, Tensor]] = {}  # by identity; holding them keeps it theirs
    inside: list[nn.Module] = []
    known = networks(objective)

    def begin(part: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        if not inside:
            source, _ = results.get(id(inputs[0]), (None, None))
            given = tuple(_leaf(value) for value in inputs)
            calls.append(Call(known[part], part, given, options, torch.is_grad_enabled(), source))
        inside.append(part)

    def end(part: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> None:
        inside.pop()
        if not inside:
            results[id(result)] = (len(calls) - 1, result)

    handles = [part.register_forward_pre_hook(begin, with_kwargs=True) for part in known]
    handles += [part.register_forward_hook(end) for part in known]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _leaf(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


class Floor:
    """The calls of one step of a method, backward and optimiser step."""

    def __init__(self, objective: Objective, batch: Batch, scale: Scale) -> None:
        with recorded(objective) as self.calls:
            output = objective(batch, first_step(scale))
        output.loss.backward()
        trained = self._with_gradient(objective)
        objective.zero_grad(set_to_none=True)
        followed = {call.source for call in self.calls}
        self._ends = [i for i, c in enumerate(self.calls) if c.gradient and i not in followed]
        self._leaves = [v for c in self.calls for v in c.inputs if isinstance(v, Tensor)]
        self._seeds: list[Tensor] = []
        self._backward()
        self.left_out = sorted(trained - self._with_gradient(objective))
        """Parameters that the method trains and the floor does not."""
        self._optimizer = build_optimizer(objective, SGD, batch_size=scale.images)
        self._clear()

    @staticmethod
    def _with_gradient(objective: Objective) -> set[str]:
        return {name for name, p in objective.named_parameters() if p.grad is not None}

    def _backward(self) -> None:
        results: list[Tensor] = []
        for call in self.calls:
            results.append(call.made(results))
        ends = [results[i] for i in self._ends]
        # A plain sum has no gradient through batch norm.
        self._seeds = self._seeds or [torch.randn_like(end) / end.numel() for end in ends]
        torch.autograd.backward(ends, self._seeds)

    def _clear(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        for leaf in self._leaves:
            leaf.grad = None

    def step(self) -> float:
        """Do one step."""
        self._backward()
        self._optimizer.step()
        self._clear()
        return 1

    def text(self) -> str:
        """Name the calls; the layers of one pass count as one."""
        told = []
        for number, call in enumerate(self.calls):
            before = self.calls[number - 1].name if call.source == number - 1 else ""
            if call.name != before:
                how = "" if call.gradient else " without gradient"
                told.append(f"{call.name} {tuple(call.inputs[0].shape)}{how}")
        return ", ".join(told)


def measure(name: str, rounds: int, scale: Scale) -> Report:
    config = settings(name, scale)
    batch = make_batch(config, scale)
    objective = make_objective(name, config, scale)
    floor = Floor(copy.deepcopy(objective), batch, scale)
    facts: dict[str, Any] = {"floor": floor.text()}
    if floor.left_out:
        facts["trained, but not in the floor"] = ", ".join(floor.left_out)
    targets = {"bare": 1 / MOST[name]} if name in MOST else {}
    with ExitStack() as loops:
        ours = loops.enter_context(Loop(objective, batch, scale))
        sides = {"ours": ours.step, "bare": floor.step}
        if isinstance(config, InterConfig):
            base, its = extended(config)
            other = make_objective(base, its, scale)
            sides[base] = loops.enter_context(Loop(other, batch, scale)).step
            targets[base] = 1 / MOST_OVER_BASE
        return paired(
            f"step_overhead {name}",
            f"training steps, {scale.text()}",
            sides,
            rounds=rounds,
            targets=targets,
            extra=facts,
        )


def over(ratio: Ratio) -> dict[str, Any]:
    """Turn a ratio of rates into one of times."""
    return {"median": 1 / ratio.median, "quartiles": [1 / ratio.high, 1 / ratio.low]}


def as_json(report: Report) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for side, ratio in report.ratios.items():
        bar = {"bar": 1 / report.targets[side]} if side in report.targets else {}
        content[f"time over {side}"] = over(ratio) | bar
    return content | {
        "control": report.control.median,
        "trustworthy": report.trustworthy,
        **report.extra,
        "machine": report.machine,
    }


def main() -> None:
    options = parser(__doc__)
    known = self_supervised()
    options.add_argument("--methods", nargs="+", default=known, choices=known)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    content = {}
    for name in chosen.methods:
        report = finish(measure(name, chosen.rounds, QUICK if chosen.quick else FULL))
        for side, ratio in report.ratios.items():
            found = over(ratio)
            low, high = found["quartiles"]
            bar = f" (bar {1 / report.targets[side]:.2f})" if side in report.targets else ""
            print(f"  time over {side}: {found['median']:.3f} [{low:.3f}, {high:.3f}]{bar}\n")
        content[report.name] = as_json(report)
        if chosen.out:  # after every method, so that a run that is stopped leaves what it found
            Path(chosen.out).write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
