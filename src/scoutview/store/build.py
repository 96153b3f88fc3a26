"""Build a store: decode every image of a cohort once, into shards.

Workers decode and encode pieces of the cohort; this process alone writes, one shard at a time and
in the order of the cohort. So a kill loses at most one shard, and the bytes of a store do not
depend on the number of workers. What finished shards hold already is found by its address and never
done again.
"""

import hashlib
import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError, DataError, RunError
from scoutview.base.files import read_json, remove_partial
from scoutview.base.lock import alone
from scoutview.base.processes import leave_interrupts_to_parent, process_pool
from scoutview.base.progress import Bar, bar
from scoutview.base.tables import read_parquet
from scoutview.pixels.headers import Locator
from scoutview.store import rows, shards
from scoutview.store.jobs import Item, Job
from scoutview.store.reader import FOLDER, MANIFEST, SCHEMA, VERSION, Store
from scoutview.store.tables import write_tables

if TYPE_CHECKING:
    from scoutview.index.cohort import Cohort

logger = logging.getLogger(__name__)

_JOB_BYTES: Final = 2 << 20
"""So few that their memory is used again, image after image, instead of being mapped anew."""
_JOB_IMAGES: Final = 2048
_AHEAD: Final = 2


class StoreConfig(Config):
    """How pixels are stored."""

    codec: Literal["raw", "lz4"] = "raw"
    """Bytes as they are ("raw", reads fastest) or blosc2 with shuffle ("lz4", half the bytes)."""
    shard_bytes: int = Field(1 << 30, ge=1 << 12)
    """A shard is closed when the next piece would make it larger than this."""
    max_side: int | None = Field(None, ge=16)
    """Shrink images whose rows or columns are longer than this; None keeps every pixel."""


@dataclass(frozen=True)
class Plan:
    """What the store will hold, in the order of the cohort."""

    table: pd.DataFrame
    items: "_Items"
    config: StoreConfig

    @property
    def digest(self) -> str:
        """Changes when an image, its file, its row or a setting does."""
        columns = [self.table[name] for name in _ROW_COLUMNS]
        hashed = pd.util.hash_pandas_object(pd.concat(columns, axis=1), index=False).to_numpy()
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        digest.update(np.ascontiguousarray(hashed).tobytes())
        digest.update(self.items.entries.tobytes())
        return digest.hexdigest()[:32]


_ROW_COLUMNS: Final = (
    "image_id", "modality", "kind", "photometric", "bits_stored", "slope", "intercept",
    "window_center", "window_width",
)  # fmt: skip
"""Columns of the cohort that a row of the store repeats."""


def build_store(
    cohort: "Cohort",
    config: StoreConfig | None = None,
    *,
    workers: int | None = None,
    folder: str | Path | None = None,
    retry: bool = False,
) -> Store:
    """Bring a store up to date with a cohort; nothing is done for what it holds already.

    Args:
        cohort: The cohort, or the part of it that shall be stored.
        config: How pixels are stored.
        workers: Processes; None is one per core. 1 decodes in this process.
        folder: The store's folder; `store` inside the cohort if None.
        retry: Try images again that could not be decoded before.

    Returns:
        The opened store. Rows stand in the order of the cohort.

    Raises:
        ConfigError: `workers` is below 1.
        DataError: The cohort has no images, or its private table lacks one.
        RunError: No worker process starts, or another build works on the store.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be >= 1, got {workers}; leave it out for one per core.")
    config = config or StoreConfig()
    folder = Path(folder) if folder is not None else Path(cohort.folder) / FOLDER
    plan = Plan(cohort.table, _Items(cohort, config), config)
    if _is_current(folder, plan, retry):
        return Store.open(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, "build of this store"):
        _build(folder, plan, workers or os.cpu_count() or 1, retry)
    store = Store.open(folder)
    _tell_problems(store)
    return store


def _build(folder: Path, plan: Plan, workers: int, retry: bool) -> None:
    place = folder / "shards"
    place.mkdir(parents=True, exist_ok=True)
    remove_partial(folder)
    shards.remove_leftovers(place)
    todo = plan.items.without(_stored_entries(place, retry))
    logger.info("store: %d of %d images to decode", len(todo), len(plan.items))
    with bar("store", total=len(todo)) as shown:
        pieces = _prepared(plan.items.jobs(todo), workers)
        _write_shards(pieces, place, plan.config, shown)
    write_tables(folder, plan.table, plan.items.entries, plan.config, plan.digest)


def _tell_problems(store: Store) -> None:
    problems = sum(store.reasons().values())
    if problems:
        logger.warning(
            "store: %d of %d images could not be decoded, %d were stored with a flaw; see %s",
            store.absent,
            len(store),
            problems - store.absent,
            store.folder / "problems.csv",
        )


def _is_current(folder: Path, plan: Plan, retry: bool) -> bool:
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_json(folder / MANIFEST, schema=SCHEMA, version=VERSION)
    if manifest["plan"] != plan.digest:
        return False
    try:
        store = Store.open(folder)
        return store.complete() and not (retry and store.absent)
    except RunError:
        return False


def _stored_entries(place: Path, retry: bool) -> NDArray[np.uint64]:
    found = []
    for name in shards.finished(place):
        path = place / f"{name}.parquet"
        lines = read_parquet(path, remedy=shards.LOST, columns=["entry", "length"])
        whole = lines["length"].to_numpy() > 0
        found.append(lines["entry"].to_numpy()[whole | (not retry)])
    return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.uint64)


class _Items:
    """Images of a cohort with their files and addresses, as columns."""

    def __init__(self, cohort: "Cohort", config: StoreConfig) -> None:
        table = cohort.table
        if len(table) == 0:
            raise DataError("The cohort has no images to store; check --where or the index.")
        self._ids = table["image_id"].to_numpy(dtype=object)
        self._volume = (table["kind"] == "volume").to_numpy()
        self._inverted = (table["photometric"] == "MONOCHROME1").to_numpy()
        self._bytes = _pixel_bytes(table)
        self._config = config
        self._files = _private_files(Path(cohort.folder))
        self._places = [self._files[name].to_numpy() for name in ("path", "member", "item")]
        self._starts, self._stops = self._find_files()
        self.entries = self._addresses()

    def __len__(self) -> int:
        return len(self._ids)

    def _find_files(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        names = self._files["image_id"].to_numpy(dtype=str)
        ids = self._ids.astype(str)
        starts = np.searchsorted(names, ids, side="left")
        stops = np.searchsorted(names, ids, side="right")
        missing = int((starts == stops).sum())
        if missing:
            raise DataError(
                f"{missing} of {len(ids)} images have no file in the cohort's private table;"
                " index the sources again."
            )
        return starts, stops

    def _addresses(self) -> NDArray[np.uint64]:
        files = self._files
        told = files[["image_id", "order", "member", "item", "size", "mtime_ns"]]
        per_file = pd.util.hash_pandas_object(told, index=False).to_numpy()
        how = f"{rows.VERSION}|{self._config.codec}|{self._config.max_side}"
        out = np.empty(len(self), dtype=np.uint64)
        for i, (start, stop) in enumerate(zip(self._starts, self._stops, strict=True)):
            words = f"{how}|{self._volume[i]:d}|{self._inverted[i]:d}|".encode()
            digest = hashlib.blake2b(words + per_file[start:stop].tobytes(), digest_size=8)
            out[i] = int.from_bytes(digest.digest(), "little")
        return out

    def without(self, known: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows whose entry is not among sorted known ones."""
        return np.flatnonzero(~np.isin(self.entries, known))

    def jobs(self, chosen: NDArray[np.int64]) -> Iterator[Job]:
        """Cut rows into jobs of about equal bytes, in order."""
        waiting: list[Item] = []
        size = 0.0
        for i in chosen.tolist():
            if waiting and (size + self._bytes[i] > _JOB_BYTES or len(waiting) >= _JOB_IMAGES):
                yield Job(tuple(waiting), self._config.codec, self._config.max_side)
                waiting, size = [], 0.0
            waiting.append(self._item(i))
            size += self._bytes[i]
        if waiting:
            yield Job(tuple(waiting), self._config.codec, self._config.max_side)

    def _item(self, i: int) -> Item:
        files = slice(self._starts[i], self._stops[i])
        columns = (column[files].tolist() for column in self._places)
        return Item(
            int(self.entries[i]),
            str(self._ids[i]),
            tuple(Locator(*place) for place in zip(*columns, strict=True)),
            bool(self._volume[i]),
            bool(self._inverted[i]),
        )


def _private_files(folder: Path) -> pd.DataFrame:
    """Files of all images, sorted by image and, inside a volume, by slice."""
    columns = ["image_id", "order", "path", "member", "item", "size", "mtime_ns", "status"]
    remedy = "restore it, or remove it and index the sources again"
    table = read_parquet(folder / "private.parquet", remedy=remedy, columns=columns)
    files = table.to_pandas()
    files = files[files["status"] == "image"]
    ranked: pd.DataFrame = files.sort_values(["image_id", "order"], kind="stable")
    return ranked.reset_index(drop=True)


def _pixel_bytes(table: pd.DataFrame) -> NDArray[np.float64]:
    """Expected bytes of each image; only the size of jobs depends on it."""
    width = [np.dtype(name).itemsize if name else 2 for name in table["dtype"]]
    counts = table[["height", "width", "n_slices", "channels"]].clip(lower=1).prod(axis=1)
    return np.asarray(counts.to_numpy(dtype=np.float64) * width)


def _write_shards(
    pieces: Iterator[shards.Piece], place: Path, config: StoreConfig, shown: Bar
) -> None:
    piece = next(pieces, None)
    while piece is not None:
        with shards.ShardWriter(place) as writer:
            while piece is not None and (
                writer.size == 0 or writer.size + piece.size <= config.shard_bytes
            ):
                writer.append(piece)
                shown.advance(len(piece.lines))
                piece = next(pieces, None)
            name = writer.commit()
        logger.info("store: shard %s is whole, %.0f MB", name, writer.size / 1e6)


def _prepared(jobs: Iterable[Job], workers: int) -> Iterator[shards.Piece]:
    """Yield pieces in the order of the jobs, at most `_AHEAD` per worker ahead."""
    if workers == 1:
        yield from map(prepare, jobs)
        return
    jobs = iter(jobs)
    flying: deque[tuple[Job, Future[shards.Piece]]] = deque()
    pool = process_pool(workers, initializer=_end_with_parent)
    try:
        while True:
            for job in jobs:
                flying.append((job, pool.submit(prepare, job)))
                if len(flying) >= _AHEAD * workers:
                    break
            if not flying:
                return
            job, future = flying.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                # Which image did it is unknown: all jobs in flight run again, one image at a time.
                suspects = [job, *(waiting for waiting, _ in flying)]
                flying.clear()
                pool.shutdown(wait=False, cancel_futures=True)
                yield from _one_by_one(suspects)
                pool = process_pool(workers, initializer=_end_with_parent)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def prepare(job: Job) -> shards.Piece:
    """Import the decoders only where something is decoded: most often all is stored already."""
    from scoutview.store import prepare as decoding

    return decoding.prepare(job)


def _one_by_one(jobs: Sequence[Job]) -> Iterator[shards.Piece]:
    """Prepare every image in a process that may die."""
    from scoutview.store.prepare import crashed

    pool = process_pool(1, initializer=_end_with_parent)
    try:
        for job in jobs:
            for item in job.items:
                try:
                    yield pool.submit(prepare, replace(job, items=(item,))).result()
                except BrokenProcessPool:
                    logger.warning("store: decoding one image ended its process; it is left out")
                    yield crashed([item])
                    pool = process_pool(1, initializer=_end_with_parent)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end when the build is killed; a pool's worker would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    leave_interrupts_to_parent()
    threading.Thread(target=watch, daemon=True).start()
