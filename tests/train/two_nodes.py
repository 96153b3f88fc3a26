"""What torchrun starts on each of two nodes: train a method in float64 and leave the weights.

Arguments: folder of the run, method, devices per node, nodes.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import torch
from tests.methods.objectives import make_batch, part_of, small_config, small_objective

from scoutview.results.provenance import environment
from scoutview.results.run import RunFolder
from scoutview.train.config import FitConfig
from scoutview.train.devices import start_fabric
from scoutview.train.loop import fit
from scoutview.train.preflight import fit_warmup

STEPS, BATCH = 4, 8


class Parts:
    """This process's contiguous part of every global batch."""

    def __init__(self, name: str, rank: int, world: int) -> None:
        self._name, self._rank, self._world = name, rank, world

    def _part(self, position: int) -> object:
        whole = make_batch(self._name, BATCH, seed=position, dtype=torch.float64)
        return part_of(whole, self._rank, self._world)

    def batches(self, start: int):
        while True:
            yield self._part(start)
            start += 1

    def sweep(self):
        batch = self._part(0)
        yield replace(batch, views=batch.views[:1])


def train(folder: Path, name: str, devices: int, nodes: int, *, resume: bool = False):
    torch.set_num_threads(1)
    method = small_config(name)
    schedule, _ = fit_warmup(
        method.schedule, total_steps=STEPS, steps_per_epoch=2 * BATCH // BATCH, written=False
    )
    config = FitConfig(
        samples=STEPS * BATCH,
        batch_size=BATCH,
        optimizer=method.optimizer,
        schedule=schedule,
        accelerator="cpu",
        devices=devices,
        num_nodes=nodes,
        precision="64-true",
        log_every=1,
        checkpoint_every=2,
        progress=False,
    )
    fabric = start_fabric(config)
    objective = small_objective(name, config=method).double()
    if fabric.is_global_zero and not resume:
        RunFolder.create(folder, {"method": name}, environment())
    fabric.barrier()
    fit(
        objective,
        Parts(name, fabric.global_rank, fabric.world_size),
        config,
        RunFolder.open(folder),
        fabric=fabric,
        dataset_size=2 * BATCH,
        resume=resume,
    )
    return objective


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
