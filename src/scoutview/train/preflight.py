"""Before training: fit defaults to the data, and estimate time and memory."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from scoutview.contract import Objective, Progress
from scoutview.data.batch import Batch
from scoutview.nn.optim_config import ScheduleConfig, StepSchedule
from scoutview.train.config import FitConfig
from scoutview.train.schedules import check_warmup, warmup_steps

C = TypeVar("C", bound=FitConfig)

_STATES = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}
"""Tensors that an optimiser keeps for each weight."""
_FEW_STEPS = 10
"""Trainings of so few steps are not worth a second step to measure the first one warm."""


@dataclass(frozen=True)
class Estimate:
    """What a training will cost, measured on one step without the data."""

    step_s: float
    total_s: float
    memory_bytes: int
    """Weights, gradients, optimiser state and what the backward pass keeps; per process."""
    warm: bool = True
    """Whether a step came before the measured one; else the times are upper bounds."""

    def __str__(self) -> str:
        hours, rest = divmod(round(self.total_s), 3600)
        minutes, seconds = divmod(rest, 60)
        return (
            f"Estimate: {'' if self.warm else 'at most '}{1000 * self.step_s:.0f} ms a step without"
            f" data, {hours}:{minutes:02d}:{seconds:02d} h in all,"
            f" {self.memory_bytes / 2**30:.2f} GiB per process."
        )


def check_budget(config: FitConfig, dataset_size: int) -> list[str]:
    """Name what looks unintended about budget, batch and schedule.

    Raises:
        ConfigError: The batch is larger than the training set or cannot be divided.
    """
    steps_per_epoch = config.steps_per_epoch(dataset_size)
    total = config.total_steps(dataset_size)
    assert config.part_size >= 1
    notes = []
    if total < steps_per_epoch:
        notes.append(
            f"The budget of {total} steps is less than one epoch of {steps_per_epoch}; most images"
            " are never seen."
        )
    if isinstance(config.schedule, StepSchedule):
        late = [m for m in config.schedule.milestones if m * steps_per_epoch >= total]
        if late:
            notes.append(f"Milestones {late} lie beyond the budget and never come.")
    left_out = dataset_size % config.batch_size
    if left_out > dataset_size / 10:
        notes.append(
            f"{left_out} of {dataset_size} images do not fill a batch of {config.batch_size}; each"
            " epoch leaves out other ones."
        )
    return notes


def fit_batch(config: C, dataset_size: int) -> tuple[C, list[str]]:
    """Lower a default batch that is larger than the training set to a power of 2 within it.

    Returns:
        The configuration, and a message if it changed.
    """
    if "batch_size" in config.model_fields_set or config.batch_size <= dataset_size:
        return config, []
    size = 2 ** (max(dataset_size, 1).bit_length() - 1)
    message = (
        f"batch_size lowered from {config.batch_size} to {size}, because there are"
        f" {dataset_size} training images."
    )
    return config.model_copy(update={"batch_size": size}), [message]


def fit_warmup(
    schedule: ScheduleConfig, *, total_steps: int, steps_per_epoch: int, written: bool
) -> tuple[ScheduleConfig, list[str]]:
    """Let a default warm-up take half of a short training; refuse a written one that never ends.

    Args:
        schedule: The schedule of the training.
        total_steps: Steps of the whole training.
        steps_per_epoch: Steps of one epoch, >= 1.
        written: Whether the user wrote the warm-up.

    Returns:
        The schedule, and a message if it changed.

    Raises:
        ConfigError: The user wrote a warm-up as long as the training.
    """
    if written:
        check_warmup(schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        return schedule, []
    half = total_steps // 2
    if warmup_steps(schedule, steps_per_epoch) <= half:
        return schedule, []
    longest, epochs = half / steps_per_epoch, total_steps / steps_per_epoch
    message = (
        f"schedule.warmup_epochs lowered from {schedule.warmup_epochs:g} to {longest:.3g}, because"  # type: ignore[union-attr]
        f" the training has {epochs:.3g} epochs."
    )
    return schedule.model_copy(update={"warmup_epochs": longest}), [message]


def estimate(
    objective: Objective,
    batch: Batch,
    prepare: Callable[[Batch], Batch],
    config: FitConfig,
    *,
    fabric: Fabric,
    dataset_size: int,
) -> Estimate:
    """Run one or two steps on a copy of the objective and count what the backward pass keeps.

    Neither the objective nor torch's random state changes. All processes must call it.

    Args:
        objective: What will be trained.
        batch: One part of a batch, as the loader gives it.
        prepare: Widens and standardises a batch on the device.
        config: Budget, precision, layout.
        fabric: The processes.
        dataset_size: Images in the training set.
    """
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    total = config.total_steps(dataset_size)
    steps_per_epoch = config.steps_per_epoch(dataset_size)
    total_epochs = math.ceil(total / steps_per_epoch)
    progress = Progress(0, total, 0, total_epochs, dataset_size, steps_per_epoch)
    with torch.random.fork_rng():
        trial = copy.deepcopy(objective).to(fabric.device).train()
        fabric.strategy.precision.convert_module(trial)
        prepared = prepare(batch.to(fabric.device))
        views = [v.contiguous(memory_format=layout) if v.ndim == 4 else v for v in prepared.views]
        prepared = replace(prepared, views=views)
        kept = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        seconds, warm = 0.0, total > _FEW_STEPS
        for _ in range(1 + warm):  # the first one warms up
            start, kept = time.perf_counter(), 0
            hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
            with fabric.autocast(), hooks:
                loss = trial(prepared, progress).loss
            loss.backward()
            float(loss.detach())  # wait for the device
            seconds = time.perf_counter() - start
    weights = sum(p.nbytes for p in trial.parameters() if p.requires_grad)
    state = sum(v.nbytes for v in trial.state_dict().values())
    memory = state + weights * (1 + _STATES[config.optimizer.kind]) + kept
    step_s = seconds * config.accumulate
    return Estimate(step_s, step_s * total, memory, warm)
