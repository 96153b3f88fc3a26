"""The teacher: a moving average of the student."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """Copy a module; no optimiser touches the copy's parameters."""
    return copy.deepcopy(module).requires_grad_(False)


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
