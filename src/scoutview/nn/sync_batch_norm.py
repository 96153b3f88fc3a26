"""Batch norm over the batch of all processes, or of those of one machine, on any device.

PyTorch's own SyncBatchNorm refuses CPU tensors. Here every process sends count, mean and summed
squared deviation of its channels in one gather; they are joined without cancellation.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scoutview.nn.gather import Group, all_gather, all_sum, world_size


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of a group's batch; state dict as BatchNorm's.

    Source: Ioffe & Szegedy, 2015, arXiv:1502.03167; joining of moments: Chan et al., 1983.
    """

    def __init__(self, num_features: int, *, group: Group = None, **options: Any) -> None:
        """Take the arguments of BatchNorm, and the processes that are normalised together."""
        super().__init__(num_features, **options)
        self.group = group
        self.drop: nn.Module = nn.Identity()  # timm's norms may end with these two
        self.act: nn.Module = nn.Identity()

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (torch's name)
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm needs (B, C, ...), got {tuple(input.shape)}.")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Normalise every channel.

        Args:
            input: (B, C, *S).

        Returns:
            Same shape, type and memory format.
        """
        if not self.training or world_size(self.group) == 1:
            out = super().forward(input)
        else:
            out = self._synchronised(input)
        return cast(Tensor, self.act(self.drop(out)))

    def _synchronised(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            mean, variance, count = _global_moments(wide, self.group)
            self._track(mean.detach(), variance.detach(), count)
            scale = (variance + self.eps).rsqrt()  # (C,)
            if self.weight is not None:
                scale = scale * self.weight
            shift = -mean * scale if self.bias is None else self.bias - mean * scale
            shape = (1, -1, *[1] * (x.ndim - 2))
            return (wide * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = self.momentum
        if weight is None:  # plain average of all batches
            weight = 1.0 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight)


def _global_moments(x: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Join mean (C,), biased variance (C,) and count () of (B, C, *S) over the processes."""
    dims = [0, *range(2, x.ndim)]
    own_variance, own_mean = torch.var_mean(x, dim=dims, correction=0)  # (C,) each
    n = x.numel() / x.shape[1]
    sent = torch.cat([own_mean, own_variance * n, own_mean.new_full((1,), n)])  # (2C + 1,)
    parts = all_gather(sent[None], group)  # (world, 2C + 1)
    c = x.shape[1]
    means, squares, counts = parts[:, :c], parts[:, c : 2 * c], parts[:, 2 * c :]
    total = counts.sum().detach()
    mean = (means * counts).sum(dim=0) / total
    deviation = squares.sum(dim=0) + ((means - mean).square() * counts).sum(dim=0)
    return mean, deviation / total, total


def convert_sync_batch_norm(module: nn.Module, group: Group = None) -> nn.Module:
    """Replace every batch norm inside a module by the synchronised one.

    Parameters and buffers are shared, names in the state dict stay. timm's batch norms with an
    activation keep it.

    Args:
        module: Changed in place.
        group: The processes that are normalised together.

    Returns:
        The module, or its replacement if it is a batch norm itself.
    """
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batch_norm(child, group))
    if not isinstance(module, _BatchNorm) or isinstance(module, SyncBatchNorm):
        return module
    new = SyncBatchNorm(
        module.num_features,
        eps=module.eps,
        momentum=module.momentum,
        affine=module.affine,
        track_running_stats=module.track_running_stats,
        group=group,
    )
    new._parameters, new._buffers = module._parameters, module._buffers
    new.drop = getattr(module, "drop", new.drop)
    new.act = getattr(module, "act", new.act)
    new.train(module.training)
    return new


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Give all processes the mean of their running statistics, where they have norms of their own.

    The mean of moving averages is the moving average of the means, so it does not matter how often
    this is done before the statistics are used.

    Args:
        module: Its batch norms are changed in place, all in one message; all processes must call.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    found = [kept for norm in norms for kept in (norm.running_mean, norm.running_var)]
    statistics = [kept for kept in found if kept is not None]
    if world_size() == 1 or not statistics:
        return
    joined = all_sum(torch.cat(statistics)) / world_size()  # (sum of C,)
    means = torch.split(joined, [len(kept) for kept in statistics])
    for kept, mean in zip(statistics, means, strict=True):
        kept.copy_(mean)


def normalises_alone(module: nn.Module) -> bool:
    """Say whether the statistics of a batch norm inside a module are not those of all processes."""

    def alone(part: nn.Module) -> bool:
        if isinstance(part, SyncBatchNorm):
            return part.group is not None
        return isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm)

    return any(map(alone, module.modules()))
