"""A small objective and an endless source of batches for the tests of the loop."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.nn.optim_config import LARSConfig
from scoutview.train.config import FitConfig


class ToyBackbone(nn.Module):
    """Two convolutions with batch norm and dropout."""

    dim = 8
    in_channels = 1

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2),
            nn.Dropout(0.1),
        )

    def forward(self, x):
        return self.net(x).mean(dim=(2, 3))


class Toy(Objective):
    """Attract two views; a moving average, a queue-like buffer and a counter are state."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.backbone = ToyBackbone()
        self.projector = nn.Linear(8, 4)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        features = self.backbone(torch.cat(batch.views))
        self.pending = features.detach().float().mean(0)
        z0, z1 = self.projector(features).float().chunk(2)
        logits = F.normalize(z0, dim=1) @ F.normalize(z1, dim=1).T / 0.2
        loss = F.cross_entropy(logits, torch.arange(len(z0)))
        return StepOutput(
            loss, {"accuracy": (logits.argmax(1) == torch.arange(len(z0))).float().mean()}
        )

    def after_update(self, progress: Progress) -> None:
        self.mean.lerp_(self.pending, 0.1)

    def between_epochs(self, sweep, progress: Progress) -> None:
        self.epochs += 1


class ToySource:
    """Batches that depend on the position only; rank r takes part r."""

    def __init__(self, part, *, size=24, rank=0, world=1, images=32, dtype=torch.float32):
        self.part, self.size, self.rank, self.world = part, size, rank, world
        self.images, self.dtype = images, dtype

    def batch(self, position) -> Batch:
        rng = np.random.default_rng(position)
        total = self.part * self.world
        rows = rng.permutation(self.images)[:total]
        images = np.stack([self.image(row) for row in rows])
        views = images + 0.1 * rng.random((2, *images.shape))
        mine = slice(self.rank * self.part, (self.rank + 1) * self.part)
        tensors = [torch.from_numpy(view[mine]).to(self.dtype) for view in views]
        keys = torch.from_numpy(rows[mine])
        flat = torch.zeros(self.part, 2, 3)
        return Batch(tensors, [flat, flat], keys, keys, torch.zeros_like(keys))

    def image(self, row):
        """A plane wave of its own for each row, (1, size, size)."""
        y, x = np.mgrid[: self.size, : self.size]
        return np.sin(x * (row % 6 + 1) / 5 + y * (row // 6 + 1) / 5)[None]

    def batches(self, start) -> Iterator[Batch]:
        while True:
            yield self.batch(start)
            start += 1

    def sweep(self) -> Iterator[Batch]:
        yield self.batch(0)


def toy_config(**changes) -> FitConfig:
    values = {
        "samples": 8 * 12,
        "batch_size": 8,
        "optimizer": LARSConfig(lr=1.0, lr_per=None, weight_decay=1e-4, trust_coefficient=0.1),
        "accelerator": "cpu",
        "log_every": 3,
        "checkpoint_every": 2,
        "progress": False,
    }
    return FitConfig(**{**values, **changes})
