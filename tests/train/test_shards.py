"""A run whose memory bank lies in shards: what is saved is the bank, whoever held it."""

import warnings
from unittest import mock

import pytest
import torch
from tests.processes import run_ranks
from tests.train import two_nodes
from tests.train.test_processes import as_rank, weights
from tests.train.two_nodes import STEPS

from scoutview.nn.banks import sharded_banks
from scoutview.train.checkpoint import EnvironmentChanged, checkpoint_path

pytestmark = pytest.mark.ddp
NAME = "npid_v2"


def sharded(folder, resume):
    """Train as one of two processes; give the number of banks that lie in shards."""
    original, train, made = two_nodes.small_config, two_nodes.train, []

    def kept(folder, _, *where, **named):
        made.append(train(folder, NAME, *where, **named))

    with (  # the process stays for other tests
        mock.patch.object(two_nodes, "small_config", lambda name: original(name, shard_bank=True)),
        mock.patch.object(two_nodes, "train", kept),
    ):
        as_rank(folder, resume)
    return len(sharded_banks(made[0]))


def test_fit__with_shards_saves_what_one_process_saves_and_resumes_bit_equal(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    two_nodes.train(one, NAME, 1, 1)
    assert run_ranks(sharded, 2, two, False) == [1, 1]
    expected, found = weights(one), weights(two)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-8, atol=1e-10, msg=name)
    checkpoint_path(two / "checkpoints", STEPS).unlink()  # as killed in the middle
    run_ranks(sharded, 2, two, True)
    for name, tensor in weights(two).items():
        assert torch.equal(tensor, found[name]), name

    checkpoint_path(two / "checkpoints", STEPS).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnvironmentChanged)
        two_nodes.train(two, NAME, 1, 1, resume=True)  # one process takes the shards of two over
    for name, tensor in weights(two).items():
        torch.testing.assert_close(tensor, found[name], rtol=1e-8, atol=1e-10, msg=name)
