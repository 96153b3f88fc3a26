"""Collectives with gradients. In one process each of them returns its input.

Every process computes its part L_r of the loss such that the loss of the global batch is the mean
of the L_r. The backward pass of a collective then sums the gradients over the processes, and the
mean that data-parallel training takes over the parameters' gradients gives the gradient of the
global batch exactly.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None
"""Some of the processes; None is all."""


def world_size(group: Group = None) -> int:
    """Count the processes of this run, or of a group of them."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: Group = None) -> int:
    """Give the number of this process, in [0, world_size)."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.rows, ctx.group = len(x), group
        return _gathered(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad, group = grad.contiguous(), ctx.group
        if dist.get_backend() == "nccl":
            own = grad.new_empty((ctx.rows, *grad.shape[1:]))
            dist.reduce_scatter_tensor(own, grad, group=group)
            return own, None
        grad = grad.clone()  # all_reduce works in place, autograd may still own it
        dist.all_reduce(grad, group=group)
        return grad[rank(group) * ctx.rows : (rank(group) + 1) * ctx.rows], None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


def _gathered(x: Tensor, group: Group) -> Tensor:
    out = x.new_empty((world_size(group) * len(x), *x.shape[1:]))
    dist.all_gather_into_tensor(out, x.contiguous(), group=group)
    return out


def all_gather(x: Tensor, group: Group = None) -> Tensor:
    """Concatenate a tensor of all processes in rank order, with gradient.

    Args:
        x: Rows of this process, (B, ...); every process has the same shape.
        group: The processes, of which this is one.

    Returns:
        Rows of all processes, (world B, ...).
    """
    if world_size(group) == 1:
        return x
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _gathered(x, group)
    gathered: Tensor = _Gather.apply(x, group)
    return gathered


def all_sum(x: Tensor) -> Tensor:
    """Sum a tensor over all processes, with gradient.

    Args:
        x: Any shape, the same in every process.

    Returns:
        The sum, same shape.
    """
    if world_size() == 1:
        return x
    total: Tensor = _Sum.apply(x)
    return total


def shuffled(x: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Deal the images of all processes to other processes, so that batch norm mixes them anew.

    Args:
        x: Images of this process, (B, ...).
        seed: The same number in every process.

    Returns:
        Images to encode here, (B, ...), and for `unshuffled` the order, (world B,).

    Source: He et al., 2019, arXiv:1911.05722, section 3.3 (shuffling batch norm).
    """
    order = torch.randperm(world_size() * len(x), generator=torch.Generator().manual_seed(seed)).to(
        x.device
    )
    mine = order[rank() * len(x) : (rank() + 1) * len(x)]
    return all_gather(x)[mine], order


def unshuffled(x: Tensor, order: Tensor) -> Tensor:
    """Bring rows computed on shuffled images back.

    Args:
        x: Rows of this process in shuffled order, (B, D).
        order: What `shuffled` gave, (world B,).

    Returns:
        Rows of the images that this process had before, (B, D).
    """
    back = torch.argsort(order)
    return all_gather(x)[back[rank() * len(x) : (rank() + 1) * len(x)]]
