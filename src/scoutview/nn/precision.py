"""Losses run in at least float32, whatever the autocast around them says."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Switch autocast off inside a function and raise its 16-bit tensor arguments to float32."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            raised = {name: _raised(value) for name, value in kwargs.items()}
            return function(*(_raised(value) for value in args), **raised)  # type: ignore[arg-type]

    return wrapped


def _raised(value: object) -> object:
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value


@full_precision
def unit(x: Tensor) -> Tensor:
    """Scale rows (B, D) to length 1, in at least float32."""
    return F.normalize(x, dim=1)
