"""Batches: threads read pixels, make views and fill one preallocated batch after the other.

Threads, because memory maps, blosc2 and OpenCV work without the interpreter's lock. The views of an
image depend on (seed, epoch, image, slice) alone: not on threads, prefetching or processes.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scoutview.base.errors import ConfigError, DataError
from scoutview.base.randomness import VIEWS, Addressed
from scoutview.data.batch import Batch, Images
from scoutview.data.pipeline import ViewPipeline
from scoutview.data.sampler import Drawn, Sampler
from scoutview.data.samples import Samples
from scoutview.store.rows import Record

_LARGE: Final = 256 * 256
"""Pixels from which on only the bounding box of the views is read and made grey."""

_Draw = tuple[Sequence[Any], tuple[int, int], tuple[slice, slice] | None]
"""Parameters of all views, and origin and window of the part of the image that they need."""

_FULL_RANGE: Final = {torch.uint8: 255.0, torch.uint16: 65535.0}


class Loader:
    """Yields batches of views from any step on."""

    def __init__(
        self,
        samples: Samples,
        views: ViewPipeline,
        sampler: Sampler,
        *,
        seed: int,
        threads: int = 1,
        prefetch: int = 2,
        pin: bool = False,
        on_device: bool = False,
        sweep_views: ViewPipeline | None = None,
        sweep_batch: int = 256,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Prepare; no pixel is read yet.

        Args:
            samples: The training set.
            views: Makes the views of one image.
            sampler: Which samples stand in the batch of a step.
            seed: The run's seed, which addresses the views.
            threads: Threads that make views; 0 works in the caller's thread.
            prefetch: Batches made ahead, >= 1; without effect if `threads` is 0.
            pin: Use page-locked memory, from which a GPU copies while it computes.
            on_device: Hand over whole images and the parameters of their views, to be made on the
                device (`views.device.make_views`). Whole, so shrink large ones in the store.
            sweep_views: Evaluation view for `sweep`.
            sweep_batch: Images of a batch of `sweep`.
            rank: Number of this process, for `sweep`.
            world: Number of processes, for `sweep`.

        Raises:
            ConfigError: A number is out of range.
        """
        if threads < 0 or prefetch < 1 or sweep_batch < 1 or not 0 <= rank < world:
            raise ConfigError(
                "threads must be >= 0, prefetch and sweep_batch >= 1 and rank in [0, world), got"
                f" {threads}, {prefetch}, {sweep_batch} and {rank} of {world}."
            )
        self.samples, self.views, self.sampler = samples, views, sampler
        self._seed, self._threads, self._prefetch, self._pin = seed, threads, prefetch, pin
        self._on_device = on_device
        self._sweep_views, self._sweep_batch = sweep_views, sweep_batch
        self._rank, self._world = rank, world
        self._dtype = samples.dtype()
        self._local = threading.local()
        self._arenas: dict[ViewPipeline, _Arena] = {}
        self._waited = 0.0
        self._elapsed = 0.0

    def __len__(self) -> int:
        return self.sampler.steps_per_epoch

    @property
    def wait_fraction(self) -> float:
        """Share of the time since iteration began that the caller waited for batches, in [0, 1]."""
        return self._waited / self._elapsed if self._elapsed else 0.0

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield this process's part of every batch.

        Args:
            start: Step to begin with, counted from 0 over all epochs. The same step gives the same
                batch in every run.
            stop: Step to end before, so that nothing is made in vain; None goes on for ever.
        """
        steps = count(start) if stop is None else range(start, stop)
        return self._stream((self.sampler.draw(step) for step in steps), self.views)

    def sweep(self) -> Iterator[Batch]:
        """Yield this process's share of the training set once, in order, as evaluation views.

        Raises:
            ConfigError: No evaluation view was given.
        """
        if self._sweep_views is None:
            raise ConfigError("A sweep needs an evaluation view; pass sweep_views to the Loader.")
        return self._stream(self._in_order(), self._sweep_views)

    def _in_order(self) -> Iterator[Drawn]:
        low, high = (len(self.samples) * part // self._world for part in self._ends())
        for start in range(low, high, self._sweep_batch):
            positions = np.arange(start, min(start + self._sweep_batch, high))
            yield Drawn(positions, np.zeros_like(positions))

    def _ends(self) -> tuple[int, int]:
        return self._rank, self._rank + 1

    def _stream(self, drawn: Iterator[Drawn], views: ViewPipeline) -> Iterator[Batch]:
        arena = self._arena(views)
        self._waited = self._elapsed = 0.0
        begun = time.perf_counter()
        if self._threads == 0:
            for part in drawn:
                asked = time.perf_counter()
                plan = self._plan(part, arena)
                self._fill(plan, views, 0, len(plan.records))
                self._waited += time.perf_counter() - asked
                self._elapsed = time.perf_counter() - begun
                yield self._finished(plan)
            return
        with ThreadPoolExecutor(self._threads, thread_name_prefix="views") as pool:
            waiting: deque[tuple[_Plan, list[Future[None]]]] = deque()
            try:
                while self._top_up(waiting, drawn, views, arena, pool):
                    asked = time.perf_counter()
                    plan, futures = waiting.popleft()
                    for future in futures:
                        future.result()
                    self._waited += time.perf_counter() - asked
                    self._elapsed = time.perf_counter() - begun
                    batch = self._finished(plan)
                    del plan  # so that the caller alone decides when its memory is free again
                    yield batch
                    del batch
            finally:
                for _, futures in waiting:
                    for future in futures:
                        future.cancel()

    def _top_up(
        self,
        waiting: "deque[tuple[_Plan, list[Future[None]]]]",
        drawn: Iterator[Drawn],
        views: ViewPipeline,
        arena: "_Arena",
        pool: ThreadPoolExecutor,
    ) -> bool:
        """Start batches until enough are under way; False when none is left."""
        while len(waiting) < self._prefetch + 1:
            part = next(drawn, None)
            if part is None:
                break
            plan = self._plan(part, arena)
            total = len(plan.records)
            cuts = [total * i // self._threads for i in range(self._threads + 1)]
            futures = [
                pool.submit(self._fill, plan, views, low, high)
                for low, high in pairwise(cuts)
                if high > low
            ]
            waiting.append((plan, futures))
        return bool(waiting)

    def _plan(self, drawn: Drawn, arena: "_Arena") -> "_Plan":
        """Locate the samples of a batch and give it memory."""
        image, slices, records = self.samples.locate(drawn.positions)
        views: list[Any] = []
        if self._on_device:
            geometry = arena.geometry(len(records))
        else:
            views, geometry = arena.take(len(records))
        targets = self.samples.targets
        batch = Batch(
            views=[torch.from_numpy(view) if not self._pin else view for view in views],
            geometry=[torch.from_numpy(affine) for affine in geometry],
            rows=torch.from_numpy(drawn.positions),
            image_keys=_column([record.image_key for record in records]),
            groups=_column([record.group for record in records]),
            targets=None if targets is None else torch.from_numpy(targets[image]),
        )
        return _Plan(
            batch,
            records,
            slices.tolist(),
            drawn.epochs.tolist(),
            self.samples.rows[image].tolist(),
            [view.numpy() if isinstance(view, Tensor) else view for view in views],
            geometry,
            [None] * len(records),
        )

    def _finished(self, plan: "_Plan") -> Batch:
        """Return a batch that is filled; images that travel are stacked by size."""
        if not self._on_device:
            return plan.batch
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for row, (image, _) in enumerate(plan.carried):
            by_shape.setdefault(image.shape, []).append(row)
        members = list(by_shape.values())
        stacks = [
            torch.from_numpy(np.stack([plan.carried[row][0] for row in rows])) for rows in members
        ]
        if self._pin:
            stacks = [stack.pin_memory() for stack in stacks]
        images = Images(stacks, members, [params for _, params in plan.carried])
        return replace(plan.batch, images=images)

    def _fill(self, plan: "_Plan", views: ViewPipeline, low: int, high: int) -> None:
        """Make the views of samples [low, high) of a batch; runs in a thread."""
        # All draws, then all pixels: pixels push the code and data of drawing out of the cache.
        random = self._random()
        drawn = [self._draw(plan, i, views, random) for i in range(low, high)]
        for i, (params, origin, window) in enumerate(drawn, start=low):
            image = self.samples.image(plan.records[i], plan.slices[i], plan.rows[i], window)
            if image.dtype != self._dtype:
                image = image.astype(np.uint16) * np.uint16(257)  # 255 becomes 65,535
            if self._on_device:
                plan.carried[i] = _channels_first(image), params
            else:
                views.apply(image, params, [view[i] for view in plan.views], origin)
        for number, place in enumerate(plan.geometry):
            place[low:high] = [views.geometry(params[number]) for params, _, _ in drawn]

    def _draw(self, plan: "_Plan", i: int, views: ViewPipeline, random: Addressed) -> "_Draw":
        """Draw the views of one sample, and the part of the image that they need."""
        record = plan.records[i]
        height, width = shape = record.height, record.width
        # A slice is an image of its own: it gets its own numbers. Word 0 is the whole image.
        generator = random.at(plan.epochs[i], record.image_key, plan.slices[i] + 1)
        params = views.draw(shape, generator)
        if height * width <= _LARGE or self._on_device:
            return params, (0, 0), None
        (y, x), (bottom, right) = views.bounding_box(params, shape)
        return params, (y, x), (slice(y, bottom), slice(x, right))

    def _arena(self, views: ViewPipeline) -> "_Arena":
        if views not in self._arenas:
            made = _Arena(views.sizes, self.samples.channels, self._dtype, self._pin)
            self._arenas[views] = made
        return self._arenas[views]

    def _random(self) -> Addressed:
        random: Addressed | None = getattr(self._local, "random", None)
        if random is None:
            random = self._local.random = Addressed(self._seed, VIEWS)
        return random


def _channels_first(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W) or (H, W, 3) to (C, H, W)."""
    return image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)


def _column(values: list[int]) -> Tensor:
    """One number per sample, (B,) int64; torch reads a list several times slower than NumPy."""
    return torch.from_numpy(np.array(values, dtype=np.int64))


@dataclass(frozen=True)
class _Plan:
    """A batch that is being filled."""

    batch: Batch
    records: list[Record]
    slices: list[int]
    epochs: list[int]
    rows: list[int]
    views: list[NDArray[Any]]
    geometry: list[NDArray[np.float32]]
    carried: list[Any]
    """Of each image that travels, its pixels (C, H, W) and the parameters of its views."""


class _Arena:
    """Memory of batches, used again once nothing refers to it.

    New memory would cost a page fault per 4 KiB, a tenth of the time of a plain crop.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, ...]],
        channels: int,
        dtype: type[np.uint8] | type[np.uint16],
        pin: bool,
    ) -> None:
        self._sizes, self._channels, self._dtype, self._pin = sizes, channels, dtype, pin
        self._kept: list[list[NDArray[Any]]] = []

    def take(self, batch: int) -> tuple[list[Any], list[NDArray[np.float32]]]:
        """Return arrays (or pinned tensors) for the views, and arrays for their geometry."""
        geometry = self.geometry(batch)
        shapes = [(batch, self._channels, *size) for size in self._sizes]
        if self._pin:
            # torch keeps pinned memory for later and knows when a copy to the GPU has ended.
            kind = torch.uint8 if self._dtype is np.uint8 else torch.uint16
            return [torch.empty(shape, dtype=kind, pin_memory=True) for shape in shapes], geometry
        for arrays in self._kept:
            if [array.shape for array in arrays] == shapes and _unused(arrays):
                return list(arrays), geometry
        arrays = [np.empty(shape, dtype=self._dtype) for shape in shapes]
        self._kept = [old for old in self._kept if old[0].shape == arrays[0].shape]
        self._kept.append(arrays)
        return list(arrays), geometry

    def geometry(self, batch: int) -> list[NDArray[np.float32]]:
        """Return arrays for the geometry of the views."""
        ndim = len(self._sizes[0])
        return [np.empty((batch, ndim, ndim + 1), dtype=np.float32) for _ in self._sizes]


def _unused(arrays: list[NDArray[Any]]) -> bool:
    """Whether only this list refers to its arrays: a tensor, view or copy of one counts as well."""
    # The list, the call's argument: two. Anything more is somebody who still looks.
    return all(sys.getrefcount(arrays[i]) == 2 for i in range(len(arrays)))


def widen(
    batch: Batch,
    *,
    channels: int,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Turn narrow views into what a backbone takes; runs where the batch is.

    Args:
        batch: Views (B, 1 or 3, *S), uint8 or uint16 (full range is [0, 1]) or floating.
        channels: Channels of the backbone; one-channel views are repeated.
        mean: Subtracted after scaling to [0, 1]; one number or one per channel.
        std: Divided by afterwards, > 0.
        dtype: Floating type of the result.

    Returns:
        The batch with views (B, channels, *S).

    Raises:
        DataError: Views of three channels cannot become `channels`.
    """
    scale = [1 / value for value in ([std] if isinstance(std, float | int) else std)]
    middle = [mean] if isinstance(mean, float | int) else list(mean)
    widened = [_widen(view, channels, middle, scale, dtype) for view in batch.views]
    return replace(batch, views=widened)


def _widen(
    view: Tensor, channels: int, mean: Sequence[float], scale: Sequence[float], dtype: torch.dtype
) -> Tensor:
    if view.shape[1] not in (1, channels):
        raise DataError(
            f"Views have {view.shape[1]} channels and the backbone takes {channels}; set"
            " data.channel to 'grey' or the backbone's in_channels to 3."
        )
    full = _FULL_RANGE.get(view.dtype, 1.0)
    space = (1, -1, *(1 for _ in view.shape[2:]))
    gain = torch.tensor([s / full for s in scale], device=view.device).view(space)
    shift = torch.tensor(
        [-m * s for m, s in zip(_match(mean, scale), _match(scale, mean), strict=True)],
        device=view.device,
    ).view(space)
    # In float32: bfloat16 cannot hold the steps of 16-bit values.
    wide = torch.addcmul(shift, view.to(torch.float32), gain).to(dtype)
    return wide.expand(-1, channels, *view.shape[2:])


def _match(values: Sequence[float], other: Sequence[float]) -> Sequence[float]:
    return list(values) * len(other) if len(values) == 1 else values
