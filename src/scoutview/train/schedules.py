"""Learning-rate schedules as pure functions of a step, each named by its source.

All of them return plain floats; steps and epochs count from 0.
"""

import math
from collections.abc import Sequence

from scoutview.base.errors import ConfigError
from scoutview.nn.optim_config import (
    ConstantSchedule,
    CosineSchedule,
    CyclicCosineSchedule,
    ScheduleConfig,
    StepSchedule,
)


def warmup_cosine(step: float, *, peak: float, total: float, warmup: float, final: float) -> float:
    """Rise linearly from 0 to the peak, then fall along half a cosine to the final value.

    Args:
        step: Steps or epochs done, >= 0; beyond `total` the final value stays.
        peak: Value at the end of the warm-up.
        total: Length of the whole schedule, in the unit of `step`.
        warmup: Length of the rise, in the same unit, in [0, total).
        final: Value at `total`.

    Returns:
        The value at `step`.
    """
    if step < warmup:
        return peak * step / warmup
    done = min(step - warmup, total - warmup) / (total - warmup)
    share = 0.5 * (1 + math.cos(math.pi * done))
    return peak * share + final * (1 - share)


def barlow_twins_lr(
    step: int, *, epochs: int, steps_per_epoch: int, batch_size: int, base_lr: float = 1.0
) -> float:
    """Learning rate of Barlow Twins: 10 epochs of warm-up, end at a thousandth of the peak.

    Args:
        step: Optimiser steps done.
        epochs: Length of the training, > 10.
        steps_per_epoch: Steps of one epoch.
        batch_size: Images per step over all processes; the peak is base_lr * batch_size / 256.
        base_lr: 0.2 for weights and 0.0048 for biases and norms in the paper.

    Source: Zbontar et al., 2021, arXiv:2103.03230; facebookresearch/barlowtwins `main.py`.
    """
    peak = base_lr * batch_size / 256
    return warmup_cosine(
        step,
        peak=peak,
        total=epochs * steps_per_epoch,
        warmup=10 * steps_per_epoch,
        final=0.001 * peak,
    )


def byol_lr(
    step: int, *, batch_size: int, base_lr: float, total_steps: int, warmup_steps: int
) -> float:
    """Learning rate of BYOL: linear warm-up, cosine to 0 at the last step.

    Source: Grill et al., 2020, arXiv:2006.07733; deepmind-research/byol `utils/schedules.py`.
    """
    peak = base_lr * batch_size / 256
    return warmup_cosine(step, peak=peak, total=total_steps, warmup=warmup_steps, final=0.0)


def moco_lr(
    epoch: float, *, lr: float, epochs: int, cos: bool = True, schedule: Sequence[int] = (120, 160)
) -> float:
    """Learning rate of MoCo v1 (times 0.1 at the epochs of `schedule`) and v2 (cosine to 0).

    Source: He et al., 2020, arXiv:1911.05722; facebookresearch/moco `main_moco.py`.
    """
    if cos:
        return lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return float(lr * 0.1 ** sum(epoch >= milestone for milestone in schedule))


def moco_v3_lr(epoch: float, *, lr: float, epochs: float, warmup: float) -> float:
    """Learning rate of MoCo v3: linear warm-up epochs, cosine to 0; `epoch` may be fractional.

    Source: Chen et al., 2021, arXiv:2104.02057; facebookresearch/moco-v3 `main_moco.py`.
    """
    return warmup_cosine(epoch, peak=lr, total=epochs, warmup=warmup, final=0.0)


def swav_lr(
    step: int,
    *,
    base_lr: float,
    final_lr: float,
    start_warmup: float,
    warmup_steps: int,
    total: int,
) -> float:
    """Learning rate of SwAV: the base is used twice, by the last warm-up and the first cosine step.

    Args:
        step: Optimiser steps done, in [0, total).
        base_lr: Peak.
        final_lr: What the cosine aims at; the last step stays one short of it.
        start_warmup: Value at step 0 when there is a warm-up.
        warmup_steps: Steps of the warm-up, both ends included.
        total: Steps of the whole training.

    Source: Caron et al., 2020, arXiv:2006.09882; facebookresearch/swav `main_swav.py`.
    """
    if step < warmup_steps:
        if warmup_steps == 1:
            return start_warmup
        return start_warmup + (base_lr - start_warmup) * step / (warmup_steps - 1)
    done = (step - warmup_steps) / (total - warmup_steps)
    return final_lr + 0.5 * (base_lr - final_lr) * (1 + math.cos(math.pi * done))


def lovt_cyclic_cosine(step: float, *, lr: float, period: float, eta_min: float = 0.0) -> float:
    """Cosine that falls for `period` steps and rises again for as many: no restart.

    Source: Müller et al., 2022, arXiv:2112.02889: CosineAnnealingLR with T_max of one epoch.
    """
    return eta_min + 0.5 * (lr - eta_min) * (1 + math.cos(math.pi * step / period))


def snapshot_cyclic_cosine(epoch: int, *, lr: float, epochs: int, cycles: int) -> float:
    """Cosine that restarts at the peak every `epochs // cycles` epochs.

    Source: Huang et al., 2017, arXiv:1704.00109, eq. 2.
    """
    length = epochs // cycles
    return lr * 0.5 * (1 + math.cos(math.pi * (epoch % length) / length))


def sgdr_lr(
    step: float, *, lr: float, first_period: int, multiplier: int = 1, eta_min: float = 0.0
) -> float:
    """Cosine with warm restarts; each period is `multiplier` times the one before.

    Source: Loshchilov & Hutter, 2017, arXiv:1608.03983, eq. 5.
    """
    period, since = first_period, step
    while since >= period:
        since -= period
        period *= multiplier
    return eta_min + 0.5 * (lr - eta_min) * (1 + math.cos(math.pi * since / period))


def rate(config: ScheduleConfig, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step as a share of the peak.

    Args:
        config: A schedule.
        step: Optimiser steps done.
        total_steps: Steps of the whole training, more than those of the warm-up.
        steps_per_epoch: Steps of one epoch, >= 1.

    Returns:
        The share, in [0, 1].
    """
    match config:
        case CosineSchedule():
            return _cosine(config, step, total_steps, steps_per_epoch)
        case CyclicCosineSchedule():
            period = config.period_epochs * steps_per_epoch
            if not config.restart:
                return lovt_cyclic_cosine(step, lr=1.0, period=period, eta_min=config.final)
            return sgdr_lr(
                step,
                lr=1.0,
                first_period=max(1, round(period)),
                multiplier=config.growth,
                eta_min=config.final,
            )
        case ConstantSchedule():
            return _rise(step, config.warmup_epochs * steps_per_epoch)
        case StepSchedule():
            epoch = step / steps_per_epoch
            passed = sum(epoch >= milestone for milestone in config.milestones)
            return _rise(step, config.warmup_epochs * steps_per_epoch) * config.factor**passed


def warmup_steps(config: ScheduleConfig, steps_per_epoch: int) -> int:
    """Count the steps until the peak."""
    epochs = 0.0 if isinstance(config, CyclicCosineSchedule) else config.warmup_epochs
    return round(epochs * steps_per_epoch)


def check_warmup(config: ScheduleConfig, *, total_steps: int, steps_per_epoch: int) -> None:
    """Require that a training reaches its peak rate.

    Raises:
        ConfigError: The warm-up is as long as the training.
    """
    warmup = warmup_steps(config, steps_per_epoch)
    if warmup and warmup >= total_steps:
        most = (total_steps - 1) / steps_per_epoch
        raise ConfigError(
            f"schedule.warmup_epochs must end before the training of"
            f" {total_steps / steps_per_epoch:g} epochs, at {most:g} or less, got"
            f" {warmup / steps_per_epoch:g}; lower it or raise the budget."
        )


def _rise(step: float, warmup: float) -> float:
    return min(1.0, step / warmup) if warmup > 0 else 1.0


def _cosine(config: CosineSchedule, step: int, total: int, steps_per_epoch: int) -> float:
    if config.per == "epoch":  # the rate of an epoch's first step holds for the whole epoch
        step -= step % steps_per_epoch
    warmup = warmup_steps(config, steps_per_epoch)
    if config.form == "swav":
        return swav_lr(
            step,
            base_lr=1.0,
            final_lr=config.final,
            start_warmup=config.start,
            warmup_steps=warmup,
            total=total,
        )
    if step < warmup:
        return config.start + (1 - config.start) * step / warmup
    return warmup_cosine(step, peak=1.0, total=total, warmup=warmup, final=config.final)
