"""Two processes and two nodes train what one process trains."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from tests.processes import run_ranks
from tests.train import two_nodes
from tests.train.toy import Toy, ToySource, toy_config
from tests.train.two_nodes import BATCH, STEPS

from scoutview.methods import METHODS
from scoutview.results.provenance import environment
from scoutview.results.run import RunFolder
from scoutview.train.checkpoint import checkpoint_path, latest_checkpoint
from scoutview.train.devices import normalised_together, start_fabric
from scoutview.train.loop import fit
from scoutview.train.signals import TrainingStoppedError

pytestmark = pytest.mark.ddp
NAME = sorted(METHODS)[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(folder, *, nodes):
    """Start the agents of all nodes on this machine, one process each, and wait for them."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={nodes}", "--nproc-per-node=1"),
        *("--master-addr=127.0.0.1", f"--master-port={free_port()}"),
    ]
    script = [two_nodes.__file__, str(folder), NAME, "1", str(nodes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    agents = [
        subprocess.Popen(
            [*command, f"--node-rank={node}", *script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(two_nodes.__file__).parents[2],
        )
        for node in range(nodes)
    ]
    outputs = [agent.communicate(timeout=200)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0] * nodes, "\n".join(outputs)


def join_as(rank):
    """Say what torchrun says to one of two processes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }


def as_rank(folder, resume):
    """Train as one of two processes of a group that stands already."""
    join_as(torch.distributed.get_rank())
    two_nodes.train(folder, NAME, 2, 1, resume=resume)


def weights(folder):
    return {
        name: tensor
        for name, tensor in latest_checkpoint(folder / "checkpoints").tensors.items()
        if name.startswith("model.")
    }


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    two_nodes.train(folder, NAME, 1, 1)
    return weights(folder)


def assert_as_one(folder, one_process):
    found = weights(folder)
    assert found.keys() == one_process.keys()
    for name, tensor in one_process.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    metrics = RunFolder.open(folder).metrics()
    assert metrics["step"].tolist() == list(range(1, STEPS + 1))  # one writer, not two
    assert metrics["samples_seen"].iloc[-1] == STEPS * BATCH


def test_fit__two_processes_equal_one_and_resume_bit_equal(tmp_path, one_process):
    folder = tmp_path / "run"
    run_ranks(as_rank, 2, folder, False)
    assert_as_one(folder, one_process)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    assert {"random.0", "random.1"} <= checkpoint.tensors.keys()
    found = weights(folder)
    checkpoint_path(folder / "checkpoints", STEPS).unlink()  # as killed in the middle
    run_ranks(as_rank, 2, folder, True)
    for name, tensor in weights(folder).items():
        assert torch.equal(tensor, found[name]), name


def as_stopped_rank(folder):
    """Train; only the second process is asked to stop, in its second step."""
    original = two_nodes.make_batch

    def asked(name, size, *, seed, **named):
        if seed == 1 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(name, size, seed=seed, **named)

    with mock.patch.object(two_nodes, "make_batch", asked):  # the process stays for other tests
        try:
            as_rank(folder, False)
        except TrainingStoppedError as stopped:
            return stopped.step
    return None


def test_fit__one_process_that_is_asked_to_stop_stops_all(tmp_path):
    assert run_ranks(as_stopped_rank, 2, tmp_path / "run") == [2, 2]
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").step == 2


def as_rank_with_own_norms(folder):
    """Train with a bank whose rows are each process's own."""
    rank = torch.distributed.get_rank()
    join_as(rank)
    config = toy_config(samples=16, devices=2, batch_norm="per_process")
    fabric = start_fabric(config)
    objective = Toy()
    objective.register_buffer("bank", torch.full((3,), float(rank)))
    if rank == 0:
        RunFolder.create(folder, {}, environment())
    fabric.barrier()
    source = ToySource(4, rank=rank, world=2)
    fit(objective, source, config, RunFolder.open(folder), fabric=fabric, dataset_size=32)
    return objective.bank, objective.backbone.net[1].running_mean


def test_fit__norms_of_each_process_share_statistics_and_banks_stay(tmp_path):
    (bank0, mean0), (bank1, mean1) = run_ranks(as_rank_with_own_norms, 2, tmp_path / "run")
    assert bank0.tolist() == [0.0] * 3
    assert bank1.tolist() == [1.0] * 3
    assert torch.equal(mean0, mean1)
    assert mean0.abs().sum() > 0


def sizes_of_groups():
    """Processes that normalise together: on two machines of one, on one of two, by default."""
    wishes = (
        {"num_nodes": 2, "batch_norm": "per_node"},
        {"devices": 2, "batch_norm": "per_node"},
        {"num_nodes": 2},
    )
    groups = [normalised_together(toy_config(samples=16, **wish)) for wish in wishes]
    return [torch.distributed.get_world_size(group) for group in groups]


def test_batch_norm__per_node_takes_the_processes_of_a_machine():
    assert run_ranks(sizes_of_groups, 2) == [[1, 2, 2]] * 2


@pytest.mark.slow
def test_fit__two_nodes_under_torchrun_equal_one(tmp_path, one_process):
    torchrun(tmp_path / "run", nodes=2)
    assert_as_one(tmp_path / "run", one_process)
