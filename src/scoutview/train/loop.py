"""The only training loop. `fit` is meant to be read from top to bottom.

Everything that decides what a step computes stands in `fit`; devices, precision and processes are
Lightning Fabric's. Small helpers follow below it.
"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from scoutview.base.errors import RunError
from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.nn.banks import sharded_banks
from scoutview.nn.sync_batch_norm import average_running_statistics, convert_sync_batch_norm
from scoutview.results.provenance import differences, environment
from scoutview.results.run import RunFolder
from scoutview.train.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    EnvironmentChanged,
    latest_checkpoint,
    random_state,
    restore_objective,
    restore_optimizer,
    set_random_state,
    training_tensors,
)
from scoutview.train.config import FitConfig
from scoutview.train.devices import determinism, normalised_together
from scoutview.train.loggers import open_loggers
from scoutview.train.monitor import CollapseMonitor, feature_health
from scoutview.train.optimizers import build_optimizer, set_rates
from scoutview.train.progress import TrainingBar, gpu_memory
from scoutview.train.schedules import check_warmup, rate
from scoutview.train.signals import StopRequest, TrainingStoppedError

logger = logging.getLogger(__name__)

MONITOR_EVERY: Final = 50
"""Steps between looks at the features; each costs two forward passes without gradient."""
WATCHED_START: Final = 200
"""Steps at the start with twice as many looks, because collapse comes early."""


class Source(Protocol):
    """What the loop asks of a loader."""

    def batches(self, start: int) -> Iterator[Batch]:
        """Yield this process's part of every batch, for ever, from a position on.

        Args:
            start: Batches passed over: the same position gives the same batches in every run.
        """

    def sweep(self) -> Iterator[Batch]:
        """Pass once, in order, over this process's share of the training set (evaluation view)."""


class Probe(Protocol):
    """Something measured on the backbone after some epochs."""

    def due(self, epochs: int, *, last: bool) -> bool:
        """Whether to measure after this many epochs, or at the end of training."""

    def measure(self, objective: Objective, device: torch.device) -> dict[str, float]:
        """Measure without changing the objective or any random state."""


@dataclass(frozen=True)
class Fitted:
    """How a training ended."""

    steps: int
    samples_seen: int
    time_s: float
    alarms: tuple[str, ...]
    """Names of the alarms that were raised, in order, those before a resume included."""


def fit(  # noqa: C901 - the one function that is read from top to bottom
    objective: Objective,
    source: Source,
    config: FitConfig,
    run: RunFolder,
    *,
    fabric: Fabric,
    dataset_size: int,
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
    monitor: CollapseMonitor | None = None,
    probes: Sequence[Probe] = (),
    resume: bool = False,
) -> Fitted:
    """Train an objective until its budget is used up.

    Args:
        objective: What is trained; on the CPU or already on the device.
        source: Gives batches of `config.part_size` images.
        config: Budget, optimiser, precision, intervals.
        run: Where metrics and checkpoints go. Only the first process writes.
        fabric: From `start_fabric`, already launched.
        dataset_size: Images in the training set, N.
        prepare: Widens and standardises a batch on the device.
        monitor: Raises collapse alarms; None for supervised tasks.
        probes: Measured at ends of epochs.
        resume: Go on from the run's newest checkpoint, or start if it has none.

    Returns:
        Steps, samples and seconds of the whole training, resumed parts included.

    Raises:
        ConfigError: The warm-up is as long as the training.
        TrainingStoppedError: SIGTERM or SIGINT came; a checkpoint is on disk.
        RunError: The loss is not finite.
        CheckpointError: A checkpoint cannot be written, or does not fit.
    """
    device, leader = fabric.device, fabric.is_global_zero
    steps_per_epoch = config.steps_per_epoch(dataset_size)
    total_steps = config.total_steps(dataset_size)
    total_epochs = math.ceil(total_steps / steps_per_epoch)
    check_warmup(config.schedule, total_steps=total_steps, steps_per_epoch=steps_per_epoch)

    # ---- model and optimiser; the order matters: norms, device, layout, optimiser, wrapping
    if config.world > 1 and config.batch_norm != "per_process":
        convert_sync_batch_norm(objective, normalised_together(config))
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    _to_layout(objective.to(device), layout)
    if config.compile:
        objective.backbone.compile()
    optimizer = build_optimizer(objective, config.optimizer, batch_size=config.batch_size)
    model, stepper = fabric.setup(_Step(objective), optimizer)
    torch.manual_seed(config.seed * 1_000_003 + fabric.global_rank)  # dropout: one stream per rank

    # ---- where training stands
    first, before_s = 0, 0.0
    checkpoint = latest_checkpoint(run.checkpoints) if resume else None
    if checkpoint is not None:
        first, before_s = checkpoint.step, checkpoint.state["time_s"]
        _restore(checkpoint, objective, optimizer, fabric, config, run)
        if monitor is not None:
            monitor.restore(checkpoint.state["monitor"])
    fabric.barrier()
    if leader and resume:
        RunFolder.resume(run.path, step=first if checkpoint else -1)
    if monitor and not first:
        monitor.start()

    def progress_at(step: int) -> Progress:
        epoch = step // steps_per_epoch
        return Progress(step, total_steps, epoch, total_epochs, dataset_size, steps_per_epoch)

    def prepared(batch: Batch) -> Batch:
        batch = prepare(batch.to(device, non_blocking=True))
        return replace(batch, views=[_image_layout(view, layout) for view in batch.views])

    def sweep() -> Iterator[Batch]:
        return (prepared(batch) for batch in source.sweep())

    start_s = time.perf_counter()
    meter = _Meter(config, device, fabric)
    batches = iter(_Timed(source.batches(first * config.accumulate), meter))
    loggers = open_loggers(config.loggers, run.path, run.config) if leader else []
    with (
        determinism(config.deterministic, device),
        StopRequest() as stop,
        CheckpointWriter(run.checkpoints, active=leader) as writer,
        TrainingBar(
            run.name, total=total_steps, start=first, shown=leader and config.progress
        ) as bar,
    ):
        objective.train()
        for step in range(first, total_steps):
            progress = progress_at(step)
            if step % steps_per_epoch == 0:
                objective.between_epochs(sweep, progress)

            # ---- one optimiser step
            share = rate(
                config.schedule, step, total_steps=total_steps, steps_per_epoch=steps_per_epoch
            )
            set_rates(optimizer, config.optimizer, share=share, fraction=progress.fraction)
            for part in range(config.accumulate):
                batch = prepared(next(batches))
                partial = part < config.accumulate - 1
                with fabric.no_backward_sync(model, enabled=partial and config.world > 1):
                    loss, logs = model(_Sealed(batch, progress))
                    fabric.backward(loss / config.accumulate)
                meter.add(loss.detach(), logs)
            if config.clip_norm is not None:
                # an infinite gradient is the loss scaler's business, or the loss check's below
                fabric.clip_gradients(
                    model, stepper, max_norm=config.clip_norm, error_if_nonfinite=False
                )
            stepper.step()
            stepper.zero_grad(set_to_none=True)
            if config.batch_norm != "synchronised":
                average_running_statistics(objective)
            objective.after_update(progress)
            bar.advance()

            # ---- what is read and written at a step boundary
            done = step + 1
            last, epoch_ends = done == total_steps, done % steps_per_epoch == 0
            stopping = stop.agreed(fabric, check=config.world == 1 or done % config.log_every == 0)
            saving = last or stopping or _due(done, config.checkpoint_every)
            extra: dict[str, float] = {}
            watch_every = MONITOR_EVERY if done > WATCHED_START else MONITOR_EVERY // 2
            if monitor is not None and (last or _due(done, watch_every)):
                extra.update(feature_health(objective, batch, fabric))
            if epoch_ends or last:
                for probe in probes:
                    if probe.due(done // steps_per_epoch, last=last):
                        extra.update(_measured(probe, objective, device, fabric))
            if saving or extra or _due(done, config.log_every):
                metrics = meter.read() | extra
                metrics["lr"] = optimizer.param_groups[0]["lr"]
                if not math.isfinite(metrics["loss"]):
                    raise RunError(_not_finite(metrics["loss"], done, run))
                raised = monitor.check(done, metrics) if monitor else []
                if leader:
                    where = {
                        "step": done,
                        "epoch": done / steps_per_epoch,
                        "samples_seen": done * config.batch_size,
                        "time_s": before_s + time.perf_counter() - start_s,
                    }
                    named = {"alarm": ", ".join(alarm.name for alarm in raised)} if raised else {}
                    run.append_metrics({**where, **metrics, **named})
                    for place in loggers:
                        place.log(metrics, done)
                    bar.show(metrics)
            if saving:
                state = {
                    "time_s": before_s + time.perf_counter() - start_s,
                    "monitor": monitor.state() if monitor else None,
                }
                writer.save(done, *_snapshot(objective, optimizer, fabric, state))
            if stopping and not last:
                writer.wait()
                fabric.barrier()
                raise TrainingStoppedError(stop.name, done, run.path)
        for place in loggers:
            place.close()
    fabric.barrier()
    seconds = before_s + time.perf_counter() - start_s
    alarms = monitor.raised if monitor else ()
    return Fitted(total_steps, total_steps * config.batch_size, seconds, alarms)


# ------------------------------------------------------------------ forward


class _Sealed:
    """Carries a batch through Fabric, which would otherwise cast every tensor inside it."""

    __slots__ = ("batch", "progress")

    def __init__(self, batch: Batch, progress: Progress) -> None:
        self.batch = batch
        self.progress = progress


class _Step(nn.Module):
    """The objective as Fabric wraps it: an opaque input, a plain tuple out."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, sealed: _Sealed) -> tuple[Tensor, dict[str, Tensor]]:
        output: StepOutput = self.objective(sealed.batch, sealed.progress)
        return output.loss, output.logs


def _to_layout(module: nn.Module, layout: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def _image_layout(view: Tensor, layout: torch.memory_format) -> Tensor:
    return view.contiguous(memory_format=layout) if view.ndim == 4 else view


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


# ------------------------------------------------------------------ metrics


class _Meter:
    """Sums logs on the device and times the data; reads both only when asked."""

    def __init__(self, config: FitConfig, device: torch.device, fabric: Fabric) -> None:
        self._images = config.part_size * config.world
        self._device = device
        self._fabric = fabric
        self.waited_s = 0.0
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._passes = 0
        self.waited_s = 0.0
        self._since = time.perf_counter()

    def add(self, loss: Tensor, logs: dict[str, Tensor]) -> None:
        """Add one forward pass, without waiting for the device."""
        for name, value in {"loss": loss, **logs}.items():
            value = value.detach().to(self._device, torch.float32, non_blocking=True)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._passes += 1

    def read(self) -> dict[str, float]:
        """Return means since the last call, over all processes, with speed and data wait."""
        counts = torch.tensor(list(self._counts.values()), device=self._device)
        stacked = torch.stack(list(self._sums.values())) / counts
        if self._fabric.world_size > 1:
            reduced = self._fabric.all_reduce(stacked, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            stacked = reduced
        metrics = dict(zip(self._sums, stacked.tolist(), strict=True))
        elapsed = time.perf_counter() - self._since
        metrics["images_per_s"] = self._images * self._passes / elapsed
        metrics["data_wait"] = self.waited_s / elapsed
        metrics |= gpu_memory(self._device)
        self._clear()
        return metrics


class _Timed:
    """Passes batches on and counts the seconds that the loop waits for them."""

    def __init__(self, batches: Iterator[Batch], meter: _Meter) -> None:
        self._batches = batches
        self._meter = meter

    def __iter__(self) -> Iterator[Batch]:
        while True:
            start = time.perf_counter()
            batch = next(self._batches)
            self._meter.waited_s += time.perf_counter() - start
            yield batch


def _measured(
    probe: Probe, objective: Objective, device: torch.device, fabric: Fabric
) -> dict[str, float]:
    """Measure on the first process; the others wait."""
    found = probe.measure(objective, device) if fabric.is_global_zero else {}
    fabric.barrier()
    return found


def _not_finite(loss: float, step: int, run: RunFolder) -> str:
    return (
        f"The loss is {loss} at step {step} of {run.name}; lower the learning rate, lengthen the"
        " warm-up, or use another precision. Checkpoints from before are kept."
    )


# ------------------------------------------------------------------ state


def _snapshot(
    objective: Objective, optimizer: Optimizer, fabric: Fabric, state: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Name everything that the next step depends on."""
    tensors = training_tensors(objective, optimizer)
    for name, bank in sharded_banks(objective).items():
        rows = bank.whole()  # only the first process, which writes, has it
        if rows is not None:
            tensors[f"model.{name}.rows"] = rows
    own = random_state(fabric.device)
    states = fabric.all_gather(own.to(fabric.device)).reshape(fabric.world_size, -1).cpu()  # type: ignore[union-attr]
    for rank, random in enumerate(states):
        tensors[f"random.{rank}"] = random
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    whole = {
        **state,
        "parameters": sum(len(group["params"]) for group in optimizer.param_groups),
        "world": fabric.world_size,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    return tensors, whole


def _restore(
    checkpoint: Checkpoint,
    objective: Objective,
    optimizer: Optimizer,
    fabric: Fabric,
    config: FitConfig,
    run: RunFolder,
) -> None:
    found = differences(run.environment, environment())
    if checkpoint.state["world"] != fabric.world_size:
        found.append(f"processes were {checkpoint.state['world']}, are {fabric.world_size}.")
    if found and fabric.is_global_zero:
        warnings.warn(
            f"{run.name} goes on in another environment, so its last bits may differ:"
            f" {' '.join(found)}",
            EnvironmentChanged,
            stacklevel=3,
        )
    restore_objective(objective, checkpoint)
    restore_optimizer(optimizer, checkpoint)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None and checkpoint.state["scaler"]:
        scaler.load_state_dict(checkpoint.state["scaler"])
    own = checkpoint.tensors.get(f"random.{fabric.global_rank}")
    if own is not None:  # a process that was not there before keeps its fresh stream
        set_random_state(own, fabric.device)
    logger.info("%s goes on after step %d.", run.name, checkpoint.step)
