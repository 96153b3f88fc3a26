"""Features of the whole training set between epochs, and what each process knows of its rows."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scoutview.nn.gather import world_size


@torch.no_grad()
def encode_sweep(
    parts: Iterable[tuple[Tensor, Tensor]], *networks: nn.Module
) -> tuple[Tensor, Tensor]:
    """Run networks one after the other over a pass over the training set, in evaluation mode.

    Evaluation mode, because processes may have unequally many batches, which synchronised batch
    norm in training mode would wait for; and because a row must not depend on its neighbours.

    Args:
        parts: Rows of the training set, (b,) int64, and their view, (b, C, *S), part by part.
        networks: Run in this order; each is left in the mode it had.

    Returns:
        Rows of this process, (n,) int64, and their features, (n, D).
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    rows, features = [], []
    try:
        for numbers, view in parts:
            for network in networks:
                view = network(view)
            rows.append(numbers)
            features.append(view)
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat(rows), torch.cat(features)


@torch.no_grad()
def merged(rows: Tensor, values: Tensor, *, into: Tensor) -> Tensor:
    """Bring together what the processes know of the rows of the training set.

    Args:
        rows: Rows of this process, (n,) int64; no row stands in two processes, and processes may
            have unequally many.
        values: What is known of them, (n, ...).
        into: What holds for rows that nobody knows, (N, ...); the same in every process.

    Returns:
        The whole, (N, ...), the same in every process; `into` itself stays as it was.
    """
    known = torch.zeros(len(into), dtype=into.dtype, device=into.device)
    known[rows] = 1
    whole = torch.zeros_like(into)
    whole[rows] = values.to(into)
    if world_size() > 1:
        dist.all_reduce(known)
        dist.all_reduce(whole)  # the others add zeros, so nothing is rounded
    shape = (-1, *(1 for _ in into.shape[1:]))
    return torch.where(known.view(shape) > 0, whole, into)
