import json
import os
import struct
import time

import pytest
import torch
from safetensors.torch import load_file
from tests.processes import kill_everywhere
from torch import nn

from scoutview.base.errors import CheckpointError
from scoutview.nn.optim_config import AdamWConfig, LARSConfig, SGDConfig
from scoutview.train.checkpoint import (
    CHECKPOINT_VERSION,
    CheckpointWriter,
    DamagedCheckpoint,
    checkpoint_files,
    checkpoint_path,
    latest_checkpoint,
    random_state,
    read_checkpoint,
    restore_objective,
    restore_optimizer,
    set_random_state,
    training_tensors,
    write_checkpoint,
)
from scoutview.train.optimizers import build_optimizer

EVERY_DTYPE = {
    str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
} | {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}


def write(folder, *steps):
    with CheckpointWriter(folder) as writer:
        for step in steps:
            writer.save(step, {"model.w": torch.full((1000,), float(step))}, {"note": "é"})


def test_file__is_plain_safetensors(tmp_path):
    write_checkpoint(tmp_path / "c.safetensors", EVERY_DTYPE, {"step": 3})
    loaded = load_file(tmp_path / "c.safetensors")
    assert loaded.keys() == EVERY_DTYPE.keys()
    for name, value in EVERY_DTYPE.items():
        assert torch.equal(loaded[name], value), name
        assert loaded[name].dtype == value.dtype


def test_file__is_read_back_whole(tmp_path):
    state = {"step": 3, "deep": {"a": [1.5, None, "x"]}}
    write_checkpoint(tmp_path / "c.safetensors", EVERY_DTYPE, state)
    checkpoint = read_checkpoint(tmp_path / "c.safetensors")
    assert checkpoint.step == 3
    assert checkpoint.state == state
    assert all(torch.equal(checkpoint.tensors[k], v) for k, v in EVERY_DTYPE.items())


def test_writer__a_flipped_bit_is_found(tmp_path):
    write(tmp_path, 1)
    path = checkpoint_path(tmp_path, 1)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum does not match"):
        read_checkpoint(path)


def test_latest__passes_over_a_damaged_file_and_says_so(tmp_path):
    write(tmp_path, 1, 2)
    path = checkpoint_path(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(DamagedCheckpoint, match="step-0000000002"):
        assert latest_checkpoint(tmp_path).step == 1
    checkpoint_path(tmp_path, 1).write_bytes(b"")
    with pytest.raises(CheckpointError), pytest.warns(DamagedCheckpoint):
        latest_checkpoint(tmp_path)


def test_latest__is_none_in_an_empty_folder(tmp_path):
    assert latest_checkpoint(tmp_path) is None


def test_read__refuses_other_files_and_newer_versions(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="expected a scoutview checkpoint"):
        read_checkpoint(tmp_path / "weights.safetensors")
    newer = {"schema": "checkpoint", "schema_version": str(CHECKPOINT_VERSION + 1)}
    save_file({"w": torch.ones(2)}, tmp_path / "new.safetensors", metadata=newer)
    with pytest.raises(CheckpointError, match="update scoutview"):
        read_checkpoint(tmp_path / "new.safetensors")


def test_schema__changes_only_with_its_version(tmp_path):
    """Fields of version 1. Change one: raise CHECKPOINT_VERSION and write an upgrade."""
    write(tmp_path, 1)
    raw = checkpoint_path(tmp_path, 1).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    metadata = json.loads(raw[8 : 8 + length])["__metadata__"]
    assert set(metadata) == {"schema", "schema_version", "checksum", "state"}
    assert {"step", "strides"} <= set(json.loads(metadata["state"]))
    assert CHECKPOINT_VERSION == 1


def test_writer__keeps_the_last_two(tmp_path):
    write(tmp_path, 1, 2, 3)
    assert [read_checkpoint(path).step for path in checkpoint_files(tmp_path)] == [2, 3]


def test_writer__writes_the_state_of_the_step_boundary(tmp_path, monkeypatch):
    """The tensor changes while the slow writer is still writing."""
    tensor = torch.ones(1000)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (time.sleep(0.2), fsync(fd))[1])
    with CheckpointWriter(tmp_path) as writer:
        writer.save(1, {"model.w": tensor}, {})
        tensor.zero_()
    assert torch.equal(latest_checkpoint(tmp_path).tensors["model.w"], torch.ones(1000))


def test_writer__a_full_disk_is_an_error_and_the_last_one_stays(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"), CheckpointWriter(tmp_path) as w:
        w.save(2, {"model.w": torch.ones(3)}, {})
    assert latest_checkpoint(tmp_path).step == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_writer__killed_in_every_file_operation_never_leaves_half_a_file(tmp_path):
    def check(n):
        found = latest_checkpoint(tmp_path)  # a DamagedCheckpoint warning would fail the test
        if found is not None:
            assert torch.equal(found.tensors["model.w"], torch.full((1000,), float(found.step)))
            seen.append(found.step)

    seen = []
    deaths = kill_everywhere(lambda: write(tmp_path, 1, 2, 3), check)
    assert deaths > 10
    assert {1, 2, 3} <= set(seen)
    assert latest_checkpoint(tmp_path).step == 3
    assert len(list(tmp_path.iterdir())) == 2


def net():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    return module.to(memory_format=torch.channels_last)


def step(module, optimizer):
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    optimizer.zero_grad()
    module(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("config", [SGDConfig, AdamWConfig, LARSConfig])
def test_restore__keeps_values_layout_and_identity(tmp_path, config):
    module = net()
    optimizer = build_optimizer(module, config(lr=0.1), batch_size=256)
    step(module, optimizer)
    with CheckpointWriter(tmp_path) as writer:
        count = len(list(module.parameters()))
        writer.save(1, training_tensors(module, optimizer), {"parameters": count})
    other = net()
    before = {name: value.data_ptr() for name, value in other.state_dict().items()}
    fresh = build_optimizer(other, config(lr=0.1), batch_size=256)
    checkpoint = latest_checkpoint(tmp_path)
    restore_objective(other, checkpoint)
    restore_optimizer(fresh, checkpoint)
    for name, value in other.state_dict().items():
        assert value.data_ptr() == before[name]
        assert torch.equal(value, module.state_dict()[name])
        assert value.stride() == module.state_dict()[name].stride()
    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        assert optimizer.state[one].keys() == fresh.state[two].keys()
        for key, value in optimizer.state[one].items():
            if value is not None:
                assert torch.equal(value, fresh.state[two][key])
                assert value.stride() == fresh.state[two][key].stride()


def test_restore__names_what_differs(tmp_path):
    write_checkpoint(
        tmp_path / "c.safetensors",
        {"model.0.weight": torch.ones(1), "model.extra": torch.ones(1)},
        {"step": 1, "parameters": 1},
    )
    checkpoint = read_checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.0\.bias is missing.*extra is not known"):
        restore_objective(nn.Sequential(nn.Linear(1, 1)), checkpoint)
    module = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False))
    module.register_buffer("extra", torch.ones(1))
    with pytest.raises(CheckpointError, match=r"\(1,\).*must be \(2, 3, 1, 1\)"):
        restore_objective(module, checkpoint)
    module = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="held 1 parameters, this one has 2"):
        restore_optimizer(build_optimizer(module, SGDConfig(lr=1), batch_size=1), checkpoint)


def test_random_state__goes_on_where_it_was():
    torch.manual_seed(3)
    state = random_state(torch.device("cpu"))
    first = torch.rand(4)
    set_random_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(4), first)
