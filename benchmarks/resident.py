"""The training loop fed with one batch that lies in memory, and let go step by step by a clock.

`Loop` runs `train.loop.fit` itself, with metrics, collapse monitor and progress: all of a training
but the data and what happens between epochs. `make_objective` builds any method at one size, with
the settings of its later epochs and the state of a training that has lasted: queues are full, every
image has its cluster.
"""

import ctypes
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoutview.contract import Objective, Progress, Sweep
from scoutview.data.batch import Batch
from scoutview.methods import METHODS, build, config_class, method_class
from scoutview.methods.config import MethodConfig
from scoutview.methods.inter_branch import InterBranch
from scoutview.methods.inter_config import InterConfig
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.nn.banks import MemoryBank
from scoutview.nn.optim_config import SGDConfig
from scoutview.nn.prototype_sets import PrototypeSet
from scoutview.nn.queues import Queue
from scoutview.results.run import RunFolder
from scoutview.train.config import FitConfig, Precision
from scoutview.train.devices import start_fabric
from scoutview.train.loop import fit
from scoutview.train.monitor import CollapseMonitor
from scoutview.views.policy import CropsAndPatches, MultiCrop, ViewPolicy

SGD = SGDConfig(lr=1e-5, lr_per=None)
"""A rate at which no loss runs away: a step takes as long at any."""
WIDEST = 2048
"""Largest width of a projection: 8,192 (barlow_twins, vicreg) would hide the rest on one core."""
LATER: dict[str, Any] = {
    "queue_from_epoch": 0,
    "frozen_epochs": 0.0,
    "prototype_warmup": 0.0,
    "z_epochs": 0,
}
"""What makes the first epoch like the later ones, for every method that has these settings."""
_BLOCK = 8192
_NOISE = 0.08


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    network: str
    side: int
    """Of the large views, in pixels."""
    images: int
    """In a batch, B."""
    rows: int
    """Images in the training set, N."""
    negatives: int
    """Of both branches of InterCLR, K."""
    accelerator: Literal["cpu", "gpu"] = "cpu"
    precision: Precision = "32-true"

    @property
    def device(self) -> torch.device:
        """Where the training runs."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training set."""
        return self.rows // self.images

    def text(self) -> str:
        """Name the sizes that all methods share."""
        return f"{self.network}, {self.side} px, batch {self.images}, {self.rows:,} images"


FULL = Scale("resnet18", side=64, images=64, rows=131_072, negatives=4096)
QUICK = Scale("resnet18", side=48, images=16, rows=16_384, negatives=512)


def keep_memory() -> None:
    """Let the process keep what a step frees, and all threads share it, where glibc manages memory.

    Otherwise page faults, up to a tenth of a step, fall on one side or the other by chance.
    """
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(-8, 1)  # M_ARENA_MAX
        allocator.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the largest that glibc takes
        allocator.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def self_supervised() -> list[str]:
    """List the methods that learn from the images alone."""
    return sorted(name for name in METHODS if method_class(name).self_supervised)


def settings(name: str, scale: Scale, **changes: Any) -> MethodConfig:
    """Give a method's settings: the paper's, but for sizes and for what only delays a part."""
    kind = config_class(name)
    fields = kind.model_fields
    written = LATER | {"views": resized(fields["views"].default, scale.side)} | changes
    if "inter_negatives" in fields:
        written |= {"inter_negatives": scale.negatives, "negatives": scale.negatives}
    if "output_dim" in fields and fields["output_dim"].default > WIDEST:
        written |= {"hidden_dim": WIDEST, "output_dim": WIDEST}
    config = kind(**{field: value for field, value in written.items() if field in fields})
    return config.for_network("convolutional").preflight(scale.rows, scale.images)[0]


def extended(config: InterConfig) -> tuple[str, MethodConfig]:
    """Find the method that a method of InterCLR extends, and its part of the settings."""
    known = {config_class(name): name for name in METHODS}
    kind = next(kind for kind in type(config).__mro__[1:] if kind in known)
    return known[kind], kind(**{field: getattr(config, field) for field in kind.model_fields})


def resized(views: ViewPolicy, side: int) -> ViewPolicy:
    """Give a policy's large crops this size and its patches one in proportion.

    The small crops of multi-crop are left out: they cost the networks more than the rest of the
    step, so a ratio with them would be the smaller one.
    """
    if isinstance(views, MultiCrop):
        return MultiCrop(counts=views.counts[:1], sizes=(side,), scales=views.scales[:1])
    if isinstance(views, CropsAndPatches):
        cell, patch = (round(s * side / views.size) for s in (views.cell_size, views.patch_size))
        sizes = {"size": side, "cell_size": cell, "patch_size": patch}
        return views.model_copy(update=sizes)
    return views.model_copy(update={"size": side})


def make_objective(name: str, config: MethodConfig, scale: Scale) -> Objective:
    """Build a method in the middle of its training, on the CPU."""
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name=scale.network, in_channels=3))
    objective = build(name, backbone, config, dataset_size=scale.rows)
    settle(objective)
    return objective


@torch.no_grad()
def settle(objective: Objective) -> None:
    """Fill queues, banks, labels and prototypes with random vectors, as training would."""
    for part in objective.modules():
        if isinstance(part, Queue):
            part.write(units(*part.rows.shape))
        elif isinstance(part, PrototypeSet):
            part.prototypes.copy_(units(*part.prototypes.shape))
            part.assignment.copy_(_in_turn(len(part.assignment), len(part)))
        elif isinstance(part, InterBranch):
            (bank,) = (m for m in objective.modules() if isinstance(m, MemoryBank))
            gather_in_clusters(bank, part)
    if hasattr(objective, "assignments"):  # clusters of all images, and a classifier of them
        for labels, prototypes in zip(objective.assignments, objective.prototypes, strict=True):
            labels.copy_(_in_turn(len(labels), len(prototypes)))
            prototypes.copy_(units(*prototypes.shape))


def gather_in_clusters(bank: MemoryBank, branch: InterBranch) -> None:
    """Put the rows of a bank around as many centres as there are clusters."""
    labels = _in_turn(len(bank), branch.kmeans.clusters)
    centres = units(branch.kmeans.clusters, bank.rows.shape[1])
    for start in range(0, len(bank), _BLOCK):
        near = centres[labels[start : start + _BLOCK]]
        rows = F.normalize(near + _NOISE * torch.randn_like(near), dim=1)
        bank.rows[start : start + _BLOCK] = rows
    branch.kmeans.start(bank, labels)


def units(count: int, dim: int) -> Tensor:
    """Draw unit vectors, (count, dim)."""
    return F.normalize(torch.randn(count, dim), dim=1)


def _in_turn(count: int, clusters: int) -> Tensor:
    return torch.arange(count) % clusters


def make_batch(config: MethodConfig, scale: Scale) -> Batch:
    """Make views of noise for a method's policy, each of another part of its image."""
    generator = torch.Generator().manual_seed(0)
    sizes = [spec.size for spec in config.views.specs(2)]  # type: ignore[attr-defined]
    views = [torch.randn(scale.images, 3, *size, generator=generator) for size in sizes]
    places = [torch.eye(2, 3).repeat(scale.images, 1, 1) for _ in views]
    for number, place in enumerate(places):
        place[:, :, 2] = float(number)  # pixels that the view is away from the corner
    rows = torch.arange(scale.images)
    return Batch(views, places, rows, rows, torch.zeros_like(rows)).to(scale.device)


def first_step(scale: Scale) -> Progress:
    """Tell where training stands at the first step."""
    return Progress(0, scale.steps_per_epoch, 0, 1, scale.rows, scale.steps_per_epoch)


class _EnoughError(Exception):
    """The benchmark wants no further step."""


class _Resident:
    """Hands out one batch whenever the clock allows a step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.allowed = threading.Semaphore(0)
        self.asked = threading.Semaphore(0)
        self.ends = False

    def batches(self, start: int) -> Iterator[Batch]:
        """See `train.loop.Source`."""
        while True:
            self.asked.release()
            self.allowed.acquire()
            if self.ends:
                raise _EnoughError
            yield self.batch

    def sweep(self) -> Iterator[Batch]:
        """See `train.loop.Source`."""
        yield self.batch


class Loop:
    """A training in a thread of its own, which waits before every step.

    Use it as a context; several are left in the reverse order of being entered.
    """

    def __init__(self, objective: Objective, batch: Batch, scale: Scale) -> None:
        objective.between_epochs = _nothing  # type: ignore[method-assign]
        self.objective = objective
        self._source = _Resident(batch)
        self._scale = scale
        self._config = FitConfig(
            samples=scale.rows,  # one epoch, of which a benchmark sees the beginning
            batch_size=scale.images,
            optimizer=SGD,
            accelerator=scale.accelerator,
            precision=scale.precision,
            channels_last=scale.accelerator == "gpu",
            checkpoint_every=None,
            progress=False,
        )
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._train, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._source.ends = True
        self._source.allowed.release()
        self._thread.join()

    def step(self) -> float:
        """Let the loop do one step and wait for its end."""
        self._source.allowed.release()
        self._wait()
        if self._scale.accelerator == "gpu":
            torch.cuda.synchronize()
        return 1

    def _wait(self) -> None:
        self._source.asked.acquire()
        if self._failure is not None:
            raise self._failure

    def _train(self) -> None:
        config, scale = self._config, self._scale
        try:
            with tempfile.TemporaryDirectory() as folder:
                fit(
                    self.objective,
                    self._source,
                    config,
                    RunFolder.create(Path(folder) / "run", {}, {}),
                    fabric=start_fabric(config),
                    dataset_size=scale.rows,
                    monitor=CollapseMonitor(batch_size=scale.images, dataset_size=scale.rows),
                )
        except _EnoughError:
            pass
        except BaseException as error:
            self._failure = error  # raised where the clock waits
            self._source.asked.release()


def _nothing(sweep: Sweep, progress: Progress) -> None:
    """Clusterings have benchmarks of their own."""


def state_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)
