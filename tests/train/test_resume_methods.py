"""Every method, killed at a seeded random step and resumed, ends bit-equal. No method is named."""

import multiprocessing
import os
import random
import signal

import pytest
import torch
from tests.methods.objectives import make_batch, small_config, small_objective, sweep_of

from scoutview.methods import METHODS
from scoutview.results.provenance import environment
from scoutview.results.run import RunFolder
from scoutview.train.config import FitConfig
from scoutview.train.devices import start_fabric
from scoutview.train.loop import fit
from scoutview.train.preflight import fit_warmup

STEPS, BATCH, IMAGES = 6, 8, 24


class Drawn:
    """Batches that depend on the position only."""

    def __init__(self, name):
        self._name = name

    def batches(self, start):
        while True:
            yield make_batch(self._name, BATCH, seed=start)
            start += 1

    def sweep(self):
        return sweep_of(self._name)()


def train(name, folder, *, resume=False, die_at=None):
    torch.set_num_threads(1)
    method = small_config(name)
    schedule, _ = fit_warmup(
        method.schedule, total_steps=STEPS, steps_per_epoch=IMAGES // BATCH, written=False
    )
    config = FitConfig(
        samples=STEPS * BATCH,
        batch_size=BATCH,
        optimizer=method.optimizer,
        schedule=schedule,
        accelerator="cpu",
        precision="bf16-mixed",
        log_every=2,
        checkpoint_every=1,
        progress=False,
    )
    objective = small_objective(name, config=method)
    if die_at is not None:
        forward = objective.forward

        def dying(batch, progress):
            if progress.step == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(batch, progress)

        objective.forward = dying
    if resume:
        run = RunFolder.open(folder)
    else:
        run = RunFolder.create(folder, {"method": name}, environment())
    fit(
        objective,
        Drawn(name),
        config,
        run,
        fabric=start_fabric(config),
        dataset_size=IMAGES,
        resume=resume,
    )
    return objective


@pytest.mark.parametrize("name", sorted(METHODS))
def test_method__killed_and_resumed_is_bit_equal(name, tmp_path):
    step = random.Random(name).randrange(2, STEPS)
    print(f"{name} is killed at step {step}")
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=train, args=(name, tmp_path / "killed"), kwargs={"die_at": step})
    child.start()
    whole = train(name, tmp_path / "whole")
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    resumed = train(name, tmp_path / "killed", resume=True)
    expected, found = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
