"""Adapters of schedules: each by its own formula, and by `rate`, which is what training calls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from tests.golden.case import Case, MissingError

from scoutview.nn.optim_config import (
    CosineSchedule,
    CyclicCosineSchedule,
    ScheduleConfig,
    StepSchedule,
)
from scoutview.nn.teacher import cosine_momentum
from scoutview.train import schedules
from scoutview.train.schedules import rate

_FINE = 1000
"""Steps of an epoch where a case counts fractional epochs."""

Arguments = dict[str, Any]


class Trained(NamedTuple):
    """A schedule as a training is configured with it."""

    config: ScheduleConfig
    peaks: tuple[float, ...]
    """Peak rate of each column of the case."""
    total_steps: int
    steps_per_epoch: int = 1
    unit: int = 1
    """Steps of what the case counts."""

    def at(self, step: float) -> list[float]:
        """The rates of a step, or epoch, as the case counts them."""
        share = rate(
            self.config,
            round(step * self.unit),
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
        )
        return [peak * share for peak in self.peaks]


def _swav(a: Arguments, step: int) -> float:
    return schedules.swav_lr(
        step,
        base_lr=a["base_lr"],
        final_lr=a["final_lr"],
        start_warmup=a["start_warmup"],
        warmup_steps=a["warmup_epochs"] * a["steps_per_epoch"],
        total=a["epochs"] * a["steps_per_epoch"],
    )


def _swav_trained(a: Arguments) -> Trained | None:
    start, final = a["start_warmup"] / a["base_lr"], a["final_lr"] / a["base_lr"]
    if not (0 <= start <= 1 and 0 <= final <= 1) or 2 * a["warmup_epochs"] > a["epochs"]:
        return None
    config = CosineSchedule(form="swav", warmup_epochs=a["warmup_epochs"], start=start, final=final)
    steps = a["steps_per_epoch"]
    return Trained(config, (a["base_lr"],), a["epochs"] * steps, steps)


def _sgdr(a: Arguments, step: int) -> float:
    return schedules.sgdr_lr(
        step, lr=a["lr"], first_period=a["T_0"], multiplier=a["T_mult"], eta_min=a["eta_min"]
    )


def _sgdr_trained(a: Arguments) -> Trained | None:
    if a["eta_min"] > a["lr"]:
        return None
    config = CyclicCosineSchedule(
        period_epochs=a["T_0"], growth=a["T_mult"], final=a["eta_min"] / a["lr"]
    )
    return Trained(config, (a["lr"],), 1)


def _lovt(a: Arguments, step: int) -> float:
    return schedules.lovt_cyclic_cosine(step, lr=a["lr"], period=a["T_max"], eta_min=a["eta_min"])


def _lovt_trained(a: Arguments) -> Trained | None:
    if a["eta_min"] > a["lr"]:
        return None
    final = a["eta_min"] / a["lr"]
    config = CyclicCosineSchedule(period_epochs=a["T_max"], restart=False, final=final)
    return Trained(config, (a["lr"],), 1)


def _snapshot(a: Arguments, epoch: int) -> float:
    return schedules.snapshot_cyclic_cosine(epoch, **a)


def _snapshot_trained(a: Arguments) -> Trained | None:
    config = CyclicCosineSchedule(period_epochs=a["epochs"] // a["cycles"])
    return Trained(config, (a["lr"],), a["epochs"])


def _barlow_twins(a: Arguments, step: int) -> list[float]:
    return [schedules.barlow_twins_lr(step, base_lr=base, **a) for base in (0.2, 0.0048)]


def _barlow_twins_trained(a: Arguments) -> Trained | None:
    if a["epochs"] < 20:  # training shortens a warm-up that is longer than half of the budget
        return None
    peaks = tuple(base * a["batch_size"] / 256 for base in (0.2, 0.0048))
    config, steps = CosineSchedule(warmup_epochs=10, final=0.001), a["steps_per_epoch"]
    return Trained(config, peaks, a["epochs"] * steps, steps)


def _byol(a: Arguments, step: int) -> float:
    return schedules.byol_lr(step, **a)


def _byol_trained(a: Arguments) -> Trained | None:
    if 2 * a["warmup_steps"] > a["total_steps"]:
        return None
    config = CosineSchedule(warmup_epochs=a["warmup_steps"])
    return Trained(config, (a["base_lr"] * a["batch_size"] / 256,), a["total_steps"])


def _moco(a: Arguments, epoch: float) -> float:
    return schedules.moco_lr(epoch, **a)


def _moco_trained(a: Arguments) -> Trained | None:
    if a["cos"]:
        return Trained(CosineSchedule(per="epoch"), (a["lr"],), a["epochs"])
    return Trained(StepSchedule(milestones=tuple(a["schedule"])), (a["lr"],), a["epochs"])


def _moco_v3(a: Arguments, epoch: float) -> float:
    return schedules.moco_v3_lr(epoch, lr=a["lr"], epochs=a["epochs"], warmup=a["warmup"])


def _moco_v3_trained(a: Arguments) -> Trained | None:
    if 2 * a["warmup"] > a["epochs"]:
        return None
    config = CosineSchedule(warmup_epochs=a["warmup"])
    return Trained(config, (a["lr"],), a["epochs"] * _FINE, _FINE, _FINE)


Formula = Callable[[Arguments, Any], Any]
Training = Callable[[Arguments], Trained | None]

SCHEDULES: dict[frozenset[str], tuple[Formula, Training]] = {
    frozenset({"epochs", "steps_per_epoch", "batch_size"}): (_barlow_twins, _barlow_twins_trained),
    frozenset({"batch_size", "base_lr", "total_steps", "warmup_steps"}): (_byol, _byol_trained),
    frozenset({"lr", "T_max", "eta_min"}): (_lovt, _lovt_trained),
    frozenset({"lr", "epochs", "cycles"}): (_snapshot, _snapshot_trained),
    frozenset({"lr", "epochs", "cos", "schedule"}): (_moco, _moco_trained),
    frozenset({"lr", "epochs", "warmup", "m"}): (_moco_v3, _moco_v3_trained),
    frozenset({"lr", "T_0", "T_mult", "eta_min"}): (_sgdr, _sgdr_trained),
    frozenset(
        {"base_lr", "final_lr", "start_warmup", "warmup_epochs", "epochs", "steps_per_epoch"}
    ): (_swav, _swav_trained),
}
"""Schedules by the names of their arguments, which a further case shares with an existing one."""


def trained(a: Arguments) -> Trained | None:
    """How a training gets this schedule; None where no configuration expresses it.

    Raises:
        MissingError: No schedule has these arguments.
    """
    if frozenset(a) not in SCHEDULES:
        raise MissingError(f"a schedule with the arguments {sorted(a)}")
    return SCHEDULES[frozenset(a)][1](a)


def schedule(case: Case) -> dict[str, Any]:
    a, steps = case.arguments, case.ins["steps"].tolist()
    training = trained(a)
    formula = SCHEDULES[frozenset(a)][0]
    out = {"lr": np.array([formula(a, step) for step in steps])}
    if training is not None:
        finer = [step * training.unit for step in steps]
        whole = [abs(step - round(step)) < 1e-9 for step in finer]
        by_rate = np.array([training.at(step) for step in steps]).reshape(out["lr"].shape)
        by_formula = out["lr"][whole]
        np.testing.assert_allclose(by_rate[whole], by_formula, rtol=1e-9, atol=1e-12)
    if "momentum" in case.outs:
        found = [cosine_momentum(a["m"], step / a["epochs"]) for step in steps]
        out["momentum"] = np.array(found)
    return out
