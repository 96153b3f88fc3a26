"""From rows of a store to a network's outputs: the one way in which images are evaluated."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scoutview.data.batch import Batch
from scoutview.data.loader import Loader, widen
from scoutview.data.sampler import PermutationSampler
from scoutview.data.samples import DataConfig, Samples
from scoutview.store.reader import Store
from scoutview.tasks.features import averaged, content_hash, outputs
from scoutview.views.pipeline import Views
from scoutview.views.policy import EvalView

Rows = NDArray[np.int64]
Prepare = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Evaluation:
    """How images become the views that validation, test, probes and embeddings see."""

    store: Store
    """Where the pixels are."""
    data: DataConfig
    """Slices, intensity, channel."""
    view: EvalView
    """Size and fit."""
    mean: float
    """Subtracted from grey values in [0, 1]."""
    std: float
    """Grey values are divided by it."""
    batch_size: int = 256
    """Images per forward pass."""
    threads: int = 1
    """Threads that make views."""

    def run(
        self,
        network: Callable[[Batch], Tensor],
        module: nn.Module,
        rows: Rows,
        prepare: Prepare,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> NDArray[np.float32]:
        """Run a network over images.

        Args:
            network: From a prepared batch to (B, D).
            module: The module that is put into evaluation mode meanwhile.
            rows: Rows of the store, (M,), in any order.
            prepare: From `prepare`.
            autocast: Precision of the forward pass.

        Returns:
            One row per image, (M, D); outputs of a volume's slices are averaged.
        """
        samples = Samples(self.store, rows, self.data)
        view = Views(self.view)
        loader = Loader(
            samples,
            view,
            # a sweep draws no batches; the sampler is there because a loader has one
            PermutationSampler(len(samples), 1, seed=0),
            seed=0,
            threads=self.threads,
            sweep_views=view,
            sweep_batch=self.batch_size,
        )
        found = outputs(
            network, module, loader.sweep(), prepare, count=len(samples), autocast=autocast
        )
        image, _, _ = samples.locate(np.arange(len(samples)))
        return averaged(found, image, len(rows))

    def prepare(
        self, device: torch.device, channels: int, *, channels_last: bool = False
    ) -> Prepare:
        """Give what moves a batch to a device and widens it for a backbone's channels."""

        def prepare(batch: Batch) -> Batch:
            moved = batch.to(device, non_blocking=True)
            wide = widen(moved, channels=channels, mean=self.mean, std=self.std)
            return in_layout(wide) if channels_last else wide

        return prepare

    def digest(self, rows: Rows) -> str:
        """Digest of all that the views of some images depend on."""
        return content_hash(
            self.store.hashes()["content_hash"].iloc[rows].tolist(),
            self.view.model_dump(mode="json"),
            self.data.model_dump(mode="json", exclude={"where", "split"}),
            (self.mean, self.std),
        )


def in_layout(batch: Batch) -> Batch:
    """Put the channels of all 2D views last in memory."""
    layout = torch.channels_last
    views = [v.contiguous(memory_format=layout) if v.ndim == 4 else v for v in batch.views]
    return replace(batch, views=views)
