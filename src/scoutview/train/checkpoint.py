"""Checkpoints: one self-checking safetensors file per step, written whole or not at all.

A file holds the objective's state, the optimiser's, the loss scaler's, the random state of every
process and where the sampler stands. The JSON part lies in the file's metadata, with a checksum
over all tensors. Nothing is pickled.
"""

import json
import logging
import threading
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from scoutview.base.errors import CheckpointError, ScoutviewWarning
from scoutview.base.files import atomic_writer, remove_partial
from scoutview.nn.banks import sharded_banks

logger = logging.getLogger(__name__)

CHECKPOINT_VERSION: Final = 1
KEPT: Final = 2
"""Checkpoints that stay on disk: the newest and the one before it."""

_DTYPES: Final = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class EnvironmentChanged(ScoutviewWarning):
    """A resumed run may differ in the last bits from one that was never stopped."""


class DamagedCheckpoint(ScoutviewWarning):
    """The newest checkpoint cannot be read; the one before it is used."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a file."""

    step: int
    """Optimiser steps done; the sampler goes on from here."""
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    """Plain values: see `Snapshot`."""
    path: Path


# ------------------------------------------------------------------ files


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write one checkpoint file atomically.

    Args:
        path: Where it will be.
        tensors: Contiguous tensors on the CPU.
        state: Plain values that JSON can hold.
    """
    with atomic_writer(path) as stream:
        _write_safetensors(stream, tensors, state)


def _write_safetensors(
    stream: BinaryIO, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write the safetensors format, tensor by tensor, without a second copy in memory."""
    header: dict[str, Any] = {}
    offset, checksum = 0, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
        checksum = zlib.crc32(_bytes(tensor), checksum)
    header["__metadata__"] = {
        "schema": "checkpoint",
        "schema_version": str(CHECKPOINT_VERSION),
        "checksum": str(checksum),
        "state": json.dumps(dict(state)),
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start on 8 bytes
    stream.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        stream.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify one checkpoint file.

    Raises:
        CheckpointError: The file is damaged, no checkpoint, or from a newer scoutview.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # ordered by place in the file, because the checksum was taken in that order
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); use an older one.") from error
    if metadata.get("schema") != "checkpoint":
        raise CheckpointError(f"{path}: expected a scoutview checkpoint, got another file.")
    if int(metadata["schema_version"]) > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path}: version {metadata['schema_version']} is newer than the {CHECKPOINT_VERSION}"
            " that this scoutview reads; update scoutview."
        )
    checksum = 0
    for tensor in tensors.values():
        checksum = zlib.crc32(_bytes(tensor), checksum)
    if str(checksum) != metadata["checksum"]:
        raise CheckpointError(f"{path}: the checksum does not match; use an older checkpoint.")
    state = json.loads(metadata["state"])
    return Checkpoint(int(state["step"]), tensors, state, path)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Name of the checkpoint after `step` optimiser steps."""
    return folder / f"step-{step:010d}.safetensors"


def checkpoint_files(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def latest_checkpoint(folder: str | Path) -> Checkpoint | None:
    """Read the newest whole checkpoint of a folder.

    Returns:
        The checkpoint, or None if there are no files. A damaged newest file is passed over with a
        `DamagedCheckpoint` warning.

    Raises:
        CheckpointError: There are files, and none of them can be read.
    """
    files = checkpoint_files(Path(folder))
    for path in reversed(files):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            if path == files[0]:
                raise
            warnings.warn(str(error), DamagedCheckpoint, stacklevel=2)
    return None


# ------------------------------------------------------------------ state of a training


def training_tensors(objective: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Name every tensor that training depends on, as live references.

    Raises:
        CheckpointError: The objective keeps something else than tensors in its state.
    """
    tensors = {}
    for name, value in objective.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name}: the state of an objective must be tensors, got {type(value).__name__};"
                " register it as a persistent buffer."
            )
        tensors[f"model.{name}"] = value.detach()
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if value is not None:
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    return tensors


def restore_objective(objective: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy saved state into the objective's own tensors, which keep their memory format.

    Raises:
        CheckpointError: Names, shapes or number types differ.
    """
    own = {f"model.{k}": v.detach() for k, v in objective.state_dict(keep_vars=True).items()}
    saved = {k: v for k, v in checkpoint.tensors.items() if k.startswith("model.")}
    for bank_name, bank in sharded_banks(objective).items():
        rows = saved.get(f"model.{bank_name}.rows")
        if rows is not None and rows.shape == (len(bank), bank.rows.shape[1]):
            saved[f"model.{bank_name}.rows"] = bank.part_of(rows)
    problems = [f"{name} is missing" for name in sorted(own.keys() - saved.keys())]
    problems += [f"{name} is not known" for name in sorted(saved.keys() - own.keys())]
    for name in sorted(own.keys() & saved.keys()):
        if own[name].shape != saved[name].shape or own[name].dtype != saved[name].dtype:
            was, now = saved[name], own[name]
            problems.append(
                f"{name} is {tuple(was.shape)} {was.dtype}, must be {tuple(now.shape)} {now.dtype}"
            )
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{checkpoint.path} belongs to another configuration: {'; '.join(problems[:5])}{more}."
        )
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def restore_optimizer(optimizer: Optimizer, checkpoint: Checkpoint) -> None:
    """Rebuild the optimiser's state with the strides that it had when it was saved.

    Raises:
        CheckpointError: The optimiser has fewer parameters than the saved one.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if len(parameters) != checkpoint.state["parameters"]:
        raise CheckpointError(
            f"{checkpoint.path}: the optimiser held {checkpoint.state['parameters']} parameters,"
            f" this one has {len(parameters)}; resume with the run's own configuration."
        )
    strides = checkpoint.state["strides"]
    optimizer.state.clear()
    for name, saved in checkpoint.tensors.items():
        if not name.startswith("optimizer."):
            continue
        _, index, key = name.split(".", 2)
        parameter = parameters[int(index)]
        # Step counters live on the CPU unless the kernel is fused; the device is saved with them.
        device = parameter.device if strides[name]["on_device"] else torch.device("cpu")
        value = torch.empty_strided(
            saved.shape, strides[name]["stride"], dtype=saved.dtype, device=device
        )
        optimizer.state[parameter][key] = value.copy_(saved)


def random_state(device: torch.device) -> Tensor:
    """Return torch's random state of this process, CPU and device together, (bytes,) uint8."""
    parts = [torch.get_rng_state()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Set what `random_state` returned; a device state is used where there is a device."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size].clone())
    if device.type == "cuda" and len(state) > size:
        torch.cuda.set_rng_state(state[size:].clone(), device)


# ------------------------------------------------------------------ the writer


class CheckpointWriter:
    """Writes checkpoints in a thread, from a copy taken at a step boundary.

    The copy is reused: a second one waits until the first is on disk. Use as a context manager; the
    exit waits for the writer.

    Args:
        folder: Where the files go; leftovers of a killed writer are removed.
        kept: How many checkpoints stay.
        active: False on all but the first process: nothing is copied or written.
    """

    def __init__(self, folder: Path, *, kept: int = KEPT, active: bool = True) -> None:
        self._folder = folder
        self._active = active
        self._kept = kept
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._copies: dict[str, Tensor] = {}
        if active:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()  # the error that ended training is the one to show

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> float:
        """Copy the tensors and start writing.

        Args:
            step: Optimiser steps done.
            tensors: Live tensors, of any layout, on any device.
            state: Plain values to write beside them.

        Returns:
            Seconds that training stood still.

        Raises:
            CheckpointError: The write before this one failed.
        """
        if not self._active:
            return 0.0
        start = time.perf_counter()
        self.wait()
        strides = {
            name: {"stride": list(tensor.stride()), "on_device": tensor.device.type != "cpu"}
            for name, tensor in tensors.items()
            if name.startswith("optimizer.")
        }
        copies = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        whole = {**state, "step": step, "strides": strides}
        self._thread = threading.Thread(
            target=self._write, args=(step, copies, whole), name="checkpoint"
        )
        self._thread.start()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            CheckpointError: It could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise CheckpointError(
                f"{self._folder}: a checkpoint could not be written ({error}); the one before it"
                " is whole. Check space and permissions, then resume."
            ) from error

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            pinned = tensor.device.type == "cuda"
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._copies[name] = copy
        return copy.copy_(tensor)

    def _write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        try:
            write_checkpoint(checkpoint_path(self._folder, step), tensors, state)
            for old in self._surplus():
                old.unlink()
        except (OSError, RuntimeError, ValueError) as error:  # raised by the training thread
            self._error = error

    def _surplus(self) -> Iterator[Path]:
        return iter(checkpoint_files(self._folder)[: -self._kept])
