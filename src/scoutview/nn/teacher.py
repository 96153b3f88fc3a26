"""The teacher: a moving average of the student."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from scoutview.nn.gather import shuffled, unshuffled, world_size
from scoutview.nn.precision import unit
from scoutview.nn.sync_batch_norm import normalises_alone

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """Copy a module; no optimiser touches the copy's parameters."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def teacher_keys(view: Tensor, *networks: nn.Module, shuffle: bool, seed: int) -> Tensor:
    """Compute the teacher's unit vectors, with images dealt to other processes meanwhile.

    Otherwise batch norm of each process would tell which query and key belong together.

    Args:
        view: Images of this process, (B, C, H, W).
        networks: From images to keys, run in this order.
        shuffle: Deal the images; no effect in one process, and where no batch norm has
            statistics of its own in each.
        seed: The same number in every process, another one in each step.

    Returns:
        Keys of the same images, (B, D).

    Source: He et al., 2019, arXiv:1911.05722, section 3.3 (shuffling batch norm).
    """
    network = nn.Sequential(*networks)
    if not shuffle or world_size() == 1 or not normalises_alone(network):
        return unit(network(view))
    view, order = shuffled(view, seed=seed)
    return unshuffled(unit(network(view)), order)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every teacher parameter towards the student's: t = m t + (1 - m) s.

    Buffers are left alone: the teacher's batch norm keeps the statistics of what it saw.

    Args:
        teacher: Changed in place.
        student: Same structure.
        momentum: m, in [0, 1].
    """
    slow: list[Tensor] = list(teacher.parameters())
    fast: list[Tensor] = list(student.parameters())
    if slow:  # torch refuses empty lists, and a part may have no parameters
        torch._foreach_lerp_(slow, fast, 1.0 - momentum)


def cosine_momentum(base: float, fraction: float) -> float:
    """Raise the teacher's momentum from `base` to 1 along half a cosine.

    Args:
        base: Momentum at the start, in [0, 1].
        fraction: Share of the training that is done; 1 is reached at 1 and kept.

    Source: Grill et al., 2020, arXiv:2006.07733, section 3.2; facebookresearch/moco-v3
    `main_moco.py`, `adjust_moco_momentum`.
    """
    return 1.0 - (1.0 - base) * (math.cos(math.pi * min(fraction, 1.0)) + 1.0) / 2.0
