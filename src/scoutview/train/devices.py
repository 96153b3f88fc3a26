"""Where training runs: devices, processes, precision, determinism."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy

from scoutview.base.errors import ConfigError
from scoutview.nn.gather import Group
from scoutview.train.config import FitConfig

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # names the precision of each run


def start_fabric(config: FitConfig) -> Fabric:
    """Start the processes of a training; with one process this only picks the device.

    Call it before anything is written: on several devices the script starts once per device and
    each process comes back from here with its own rank. Under torchrun and SLURM the processes are
    there already.

    Raises:
        ConfigError: A GPU is asked for and there is none, or too few, or the precision needs one;
            or several machines without a launcher.
    """
    available = torch.cuda.device_count()
    accelerator = config.accelerator or ("gpu" if available else "cpu")
    if accelerator == "gpu" and available < config.devices:
        raise ConfigError(
            f"{config.devices} GPUs are asked for, PyTorch sees {available}; set accelerator to"
            " 'cpu' or lower devices."
        )
    if accelerator == "cpu" and config.precision == "16-mixed":
        raise ConfigError("precision '16-mixed' needs a GPU; use 'bf16-mixed' or '32-true'.")
    strategy: str | Strategy = "auto"
    if config.world > 1:
        strategy = DDPStrategy(
            process_group_backend="gloo" if accelerator == "cpu" else "nccl",
            # Queues and banks are slow to send, and equal or sharded by themselves; the loop sees
            # to the norms.
            broadcast_buffers=False,
        )
    fabric = Fabric(
        accelerator=accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy,
        precision=config.precision,
    )
    if config.num_nodes > 1:
        _require_launcher(fabric, config)
    fabric.launch()
    return fabric


def _require_launcher(fabric: Fabric, config: FitConfig) -> None:
    """Refuse several machines where nothing says which one this is: it would wait for ever."""
    alone = isinstance(fabric.strategy.cluster_environment, LightningEnvironment)  # type: ignore[attr-defined]
    if alone and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise ConfigError(
            f"num_nodes {config.num_nodes} needs a launcher that tells the machines apart; on each"
            f" call: torchrun --nnodes {config.num_nodes} --nproc-per-node {config.devices}"
            " --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m scoutview pretrain ..., or use srun."
        )


def normalised_together(config: FitConfig) -> Group:
    """Name the processes over which this one's batch norms take their statistics; all must call."""
    if config.batch_norm != "per_node" or config.num_nodes == 1:
        return None
    own, _ = dist.new_subgroups(group_size=config.devices)  # ranks of a machine follow each other
    return cast(Group, own)


_filling: Any = torch.utils.deterministic  # its flag is a property that type checkers do not see


@contextmanager
def determinism(wanted: bool | None, device: torch.device) -> Iterator[None]:
    """Use deterministic kernels inside the block, where PyTorch has them.

    Args:
        wanted: None asks for them on the CPU only.
        device: Where training runs.
    """
    enabled = device.type == "cpu" if wanted is None else wanted
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = _filling.fill_uninitialized_memory
    if enabled:
        torch.use_deterministic_algorithms(True, warn_only=True)
        # our code reads nothing that it has not written, and filling costs a pass over memory
        _filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        _filling.fill_uninitialized_memory = filling
