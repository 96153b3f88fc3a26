"""A golden case, and what adapters need to run the production code on it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoutview.contract import Progress
from scoutview.data.batch import Batch


class MissingError(Exception):
    """The adapter of an existing method cannot run a case."""


class Named(dict[str, Any]):
    """A part of a case; what it lacks is reported by name."""

    def __init__(self, part: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.part = part

    def __missing__(self, name: str) -> Any:
        raise MissingError(f"{self.part} {name!r} in the case")


@dataclass(frozen=True)
class Case:
    """One golden case. It has no name: further cases have others, and run all the same."""

    arguments: Named
    ins: Named
    """float64 tensors, integers as they are."""
    outs: Named


def load(file: Path) -> tuple[Case, dict[str, float]]:
    meta = json.loads(file.read_text())
    with np.load(file.with_suffix(".npz")) as archive:
        arrays = {name: archive[name] for name in archive.files}
    ins = {k.removeprefix("in_"): v for k, v in arrays.items() if k.startswith("in_")}
    outs = {k.removeprefix("out_"): v for k, v in arrays.items() if k.startswith("out_")}
    tensors = {name: as_tensor(value) for name, value in ins.items()}
    case = Case(
        Named("argument", meta["arguments"]),
        Named("input", tensors),
        Named("output", outs),
    )
    return case, meta["tolerance"]["when_run_in_float64"]


def as_tensor(value: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(value))
    return tensor.double() if tensor.is_floating_point() else tensor


def leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_()


def gradients(loss: Tensor, **leaves: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {f"grad_{name}": grad for name, grad in zip(leaves, found, strict=True)}


def progress(step: int = 0, epoch: int = 0) -> Progress:
    return Progress(step=step, total_steps=100, epoch=epoch, total_epochs=100, dataset_size=1000)


def batch_of(*views: Tensor) -> Batch:
    numbers = torch.arange(len(views[0]))
    return Batch(
        list(views), [], rows=numbers, image_keys=numbers, groups=torch.zeros_like(numbers)
    )


class Vectors(nn.Identity):
    """A backbone for vectors: gives back what it gets."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


class Given(nn.Module):
    """A head that gives what a case has, one output per call."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.outputs.pop(0)
