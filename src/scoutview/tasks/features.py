"""Outputs of a network over a set of images, in order: features, cached, and predictions."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scoutview.base.errors import DataError
from scoutview.base.files import atomic_writer
from scoutview.data.batch import Batch

Prepare = Callable[[Batch], Batch]
"""Moves a batch to the device, widens and standardises it."""


@torch.inference_mode()
def outputs(
    network: Callable[[Batch], Tensor],
    module: nn.Module,
    batches: Iterable[Batch],
    prepare: Prepare,
    *,
    count: int,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> NDArray[np.float32]:
    """Run a network once over images, in evaluation mode, and put its mode back.

    Args:
        network: From a prepared batch to (B, D).
        module: The module whose mode is switched.
        batches: All images in order, the last batch possibly short.
        prepare: See `Prepare`.
        count: Number of images, N.
        autocast: Precision of the forward pass.

    Returns:
        One row per image, (N, D) float32.

    Raises:
        DataError: The batches hold another number of images.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    table: Tensor | None = None
    done = 0
    try:
        for batch in batches:
            with autocast():
                out = network(prepare(batch))
            if table is None:
                table = torch.empty(count, out.shape[1])
            if done + len(out) > count:
                raise DataError(
                    f"Expected {count} images, got more; this is a fault in the loader."
                )
            table[done : done + len(out)].copy_(out)
            done += len(out)
    finally:
        for part, training in modes:
            part.training = training
    if table is None or done != count:
        raise DataError(f"Expected {count} images, got {done}; select some images first.")
    found: NDArray[np.float32] = table.numpy()
    return found


def averaged(
    rows: NDArray[np.float32], image: NDArray[np.int64], count: int
) -> NDArray[np.float32]:
    """Average the outputs of the samples of each image (the slices of a volume).

    Args:
        rows: One per sample, (N, D).
        image: Image of each sample, (N,) ascending, every image in [0, count) at least once.
        count: Number of images, M.

    Returns:
        One row per image, (M, D).
    """
    if len(rows) == count:
        return rows
    first = np.searchsorted(image, np.arange(count))
    sums = np.add.reduceat(rows.astype(np.float64), first, axis=0)
    return (sums / np.bincount(image, minlength=count)[:, None]).astype(np.float32)


def weights_hash(module: nn.Module) -> str:
    """Digest of all weights and buffers of a network, 16 hex digits."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def content_hash(*parts: Any) -> str:
    """Digest of plain values, 16 hex digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cached(path: Path, compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Read an array, or compute and keep it.

    Args:
        path: An .npy file named after everything that the array depends on.
        compute: Computes the array.

    Returns:
        The array.
    """
    if path.is_file():
        kept: NDArray[np.float32] = np.load(path)
        return kept
    array = compute()
    stream = io.BytesIO()
    np.save(stream, array)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path) as file:
        file.write(stream.getbuffer())
    return array
