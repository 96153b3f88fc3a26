"""LARS in its published forms, and optimisers built from their configurations."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scoutview.base.errors import ConfigError
from scoutview.nn.optim_config import (
    AdamConfig,
    AdamWConfig,
    LARSConfig,
    LARSVariant,
    OptimizerConfig,
    SGDConfig,
)

Denominator = Literal["sum_of_norms", "norm_of_sum"]
Scaled = Literal["gradient", "update"]


class LARS(Optimizer):
    """SGD with momentum whose step is scaled per parameter by |weight| / |gradient|.

    A parameter group may set `adapt=False`: its parameters are not scaled (ratio 1).

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, >= 0.
        momentum: Momentum, in [0, 1).
        weight_decay: Added to the gradient as weight_decay * weight.
        trust_coefficient: Factor of the ratio, > 0.
        nesterov: Look one step ahead.
        lr_in_momentum: True puts lr into the momentum buffer (paper, SimCLR), False applies it to
            the buffer (Barlow Twins, apex). They differ when lr changes.
        denominator: "sum_of_norms" is |g| + d |w| (paper, apex), "norm_of_sum" is |g + d w|.
        eps: Added to the denominator (apex: 1e-8).
        skip_zero: Where |w| or |g| is 0, also leave out the weight decay (apex).
        clip: Never scale the learning rate up: ratio = min(ratio / lr, 1) (apex, clip=True).
        adapt: Whether parameters are scaled; normally set per group.
        scaled: What is scaled: the "gradient" before it enters the momentum, or the "update" after
            it, by c |w| / |update| ("popular momentum" of google-research/simclr,
            classic_momentum=False). An "update" takes no setting of the gradient's ratio.

    Raises:
        ConfigError: `scaled` is "update" and `denominator`, `lr_in_momentum`, `eps`, `skip_zero` or
            `clip` is not at its default.

    Source: You et al., 2017, arXiv:1708.03888, algorithm 1; google-research/simclr
    `lars_optimizer.py`; facebookresearch/barlowtwins `main.py`; NVIDIA/apex `LARC.py`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        nesterov: bool = False,
        lr_in_momentum: bool = True,
        denominator: Denominator = "sum_of_norms",
        eps: float = 0.0,
        skip_zero: bool = False,
        clip: bool = False,
        adapt: bool = True,
        scaled: Scaled = "gradient",
    ) -> None:
        others = {
            "clip": clip,
            "denominator": denominator != "sum_of_norms",
            "eps": eps,
            "lr_in_momentum": not lr_in_momentum,
            "skip_zero": skip_zero,
        }
        if scaled == "update" and any(others.values()):
            raise ConfigError(
                "LARS that scales the update has no gradient ratio to set; got"
                f" {', '.join(name for name, given in others.items() if given)}, leave them out."
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "nesterov": nesterov,
            "lr_in_momentum": lr_in_momentum,
            "denominator": denominator,
            "eps": eps,
            "skip_zero": skip_zero,
            "clip": clip,
            "adapt": adapt,
            "scaled": scaled,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss; not needed.

        Returns:
            What `closure` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return
        gradients = [p.grad for p in weights]
        if group["scaled"] == "update":
            self._step_popular(group, weights, gradients)
            return
        lr, decay = group["lr"], group["weight_decay"]
        if group["adapt"]:
            updates = self._adapted(group, weights, gradients)
        elif decay:
            updates = list(torch._foreach_add(gradients, weights, alpha=decay))
        else:
            updates = [gradient.clone() for gradient in gradients]
        if group["lr_in_momentum"]:
            torch._foreach_mul_(updates, lr)
        updates = self._accumulated(group, weights, updates)
        torch._foreach_add_(weights, updates, alpha=-1.0 if group["lr_in_momentum"] else -lr)

    def _step_popular(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]
    ) -> None:
        """Accumulate first, then scale what was accumulated."""
        decayed = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        updates = self._accumulated(group, weights, decayed)
        if group["adapt"]:
            weight_norm = torch.stack(torch._foreach_norm(weights))
            update_norm = torch.stack(torch._foreach_norm(updates))
            ratio = group["trust_coefficient"] * weight_norm / update_norm
            usable = (weight_norm > 0) & (update_norm > 0)
            ratio = torch.where(usable, ratio, torch.ones_like(ratio))
            updates = list(torch._foreach_mul(updates, list(ratio.unbind())))
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _accumulated(
        self, group: dict[str, Any], weights: list[Tensor], updates: list[Tensor]
    ) -> list[Tensor]:
        """Add updates to the momentum; return it, or with Nesterov a step beyond it."""
        buffers = [self._buffer(p) for p in weights]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        if not group["nesterov"]:
            return buffers
        torch._foreach_add_(updates, buffers, alpha=group["momentum"])
        return updates

    def _adapted(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        """Return ratio * (g + d w) for each parameter, without waiting for the device."""
        decay = group["weight_decay"]
        decayed = torch._foreach_add(gradients, weights, alpha=decay)
        weight_norm = torch.stack(torch._foreach_norm(weights))
        plain_norm = torch.stack(torch._foreach_norm(gradients))
        if group["denominator"] == "sum_of_norms":
            below = plain_norm + decay * weight_norm
        else:
            below = torch.stack(torch._foreach_norm(decayed))
        ratio = group["trust_coefficient"] * weight_norm / (below + group["eps"])
        if group["clip"]:
            ratio = (ratio / group["lr"]).clamp(max=1.0)
        # apex looks at the plain gradient, the others at what stands in the denominator
        usable = (weight_norm > 0) & ((plain_norm if group["skip_zero"] else below) > 0)
        ratio = torch.where(usable, ratio, torch.ones_like(ratio))
        if group["skip_zero"]:
            kept = torch._foreach_mul(weights, list((~usable).to(ratio.dtype).unbind()))
            torch._foreach_add_(decayed, kept, alpha=-decay)
        torch._foreach_mul_(decayed, list(ratio.unbind()))
        return list(decayed)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def lars_form(variant: LARSVariant) -> dict[str, Any]:
    """Return the arguments of `LARS` that make it one of the published forms."""
    forms: dict[LARSVariant, dict[str, Any]] = {
        "paper": {"lr_in_momentum": True, "denominator": "sum_of_norms"},
        "classic": {"lr_in_momentum": True, "denominator": "norm_of_sum"},
        "popular": {"scaled": "update"},
        "pytorch": {"lr_in_momentum": False, "denominator": "norm_of_sum"},
        "larc": {
            "lr_in_momentum": False,
            "denominator": "sum_of_norms",
            "eps": 1e-8,
            "skip_zero": True,
        },
    }
    return forms[variant]


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split trainable parameters into weights and the rest (biases and norms: below 2 dimensions).

    Args:
        module: What is trained.
        config: Says whether the rest is decayed, adapted, and at which rate.

    Returns:
        Weights and the rest, which is excluded from what the configuration excludes; then the same
        of the parts that the module names in `constant_rate`. Each holds `peak`, its share of the
        learning rate, and `scheduled`, whether the schedule multiplies it.
    """
    constant = tuple(f"{part}." for part in getattr(module, "constant_rate", ()))
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    excluded: dict[str, Any] = {"peak": config.lr_excluded or config.lr}
    if not config.decay_excluded:
        excluded["weight_decay"] = 0.0
    if isinstance(config, LARSConfig):
        excluded["adapt"] = config.adapt_excluded
    groups: list[dict[str, Any]] = []
    for scheduled in (True, False):
        parts = [p for name, p in named if name.startswith(constant) != scheduled]
        weights = {"params": [p for p in parts if p.ndim > 1], "peak": config.lr}
        rest = {"params": [p for p in parts if p.ndim <= 1], **excluded}
        groups += [{**weights, "scheduled": scheduled}, {**rest, "scheduled": scheduled}]
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, config: OptimizerConfig, *, batch_size: int) -> Optimizer:
    """Build the optimiser of a configuration, fused where PyTorch has a fused kernel.

    Args:
        module: What is trained; its parameters stand on their final device.
        config: Which optimiser, with its settings.
        batch_size: Images per step over all processes; the rate grows with it by `lr_per`.

    Returns:
        The optimiser. Each group has `peak`, its scaled peak learning rate.
    """
    scale = batch_size / config.lr_per if config.lr_per else 1.0
    if config.lr_growth == "root":
        scale = math.sqrt(scale)
    groups = parameter_groups(module, config)
    for group in groups:
        group["peak"] *= scale
        group["decayed"] = "weight_decay" not in group
        group["lr"] = group["peak"]
    lr, decay = config.lr * scale, config.weight_decay
    match config:
        case LARSConfig():
            return LARS(
                groups,
                lr=lr,
                momentum=config.momentum,
                weight_decay=decay,
                trust_coefficient=config.trust_coefficient,
                **lars_form(config.variant),
            )
        case SGDConfig():
            return torch.optim.SGD(
                groups,
                lr=lr,
                momentum=config.momentum,
                weight_decay=decay,
                nesterov=config.nesterov,
                fused=True,
            )
        case AdamConfig() | AdamWConfig():
            kind = torch.optim.AdamW if isinstance(config, AdamWConfig) else torch.optim.Adam
            return kind(
                groups,
                lr=lr,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                weight_decay=decay,
                fused=True,
            )


def set_rates(
    optimizer: Optimizer, config: OptimizerConfig, *, share: float, fraction: float
) -> None:
    """Set learning rate and weight decay of the next step.

    Args:
        optimizer: From `build_optimizer`.
        config: Its configuration.
        share: Learning rate as a share of the peak, from the schedule.
        fraction: Share of all steps that is done, in [0, 1].
    """
    decay = config.weight_decay
    if config.final_weight_decay is not None:
        towards_start = (1.0 + math.cos(math.pi * fraction)) / 2.0
        decay = config.final_weight_decay + towards_start * (decay - config.final_weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * (share if group["scheduled"] else 1.0)
        if group["decayed"]:
            group["weight_decay"] = decay
