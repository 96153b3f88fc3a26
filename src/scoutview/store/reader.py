"""Read a store: one memory map per shard, opened when first touched."""

import csv
import mmap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scoutview.base.errors import DataError, RunError
from scoutview.base.files import read_json
from scoutview.base.tables import read_parquet
from scoutview.store import rows
from scoutview.store.codec import decode
from scoutview.store.hashes import SIDE, crc32
from scoutview.store.rows import Record, RowTable
from scoutview.store.shards import LOST, address

FOLDER: Final = "store"
MANIFEST: Final = "store.json"
SCHEMA: Final = "store"
VERSION: Final = 1
"""Version of the tables of a store together."""

_TABLES: Final = ("rows.bin", "levels.bin", "small.bin", "hashes.parquet", "problems.csv")
_WRITE_AGAIN: Final = "remove store.json beside it and run: scoutview store COHORT"
"""What to do about a damaged table of the store: it is written anew from the shards."""


@dataclass(frozen=True)
class Damage:
    """An image whose stored bytes are not those that were written."""

    image_id: str
    shard: str


class Store:
    """Decoded pixels of a cohort, read-only. Threads may share one."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Map the tables of a store; use `open`."""
        self.folder = folder
        self.config: dict[str, Any] = manifest["config"]
        """The settings it was built with."""
        self.groups: list[str] = manifest["groups"]
        """Modality of each group number."""
        self.shards: list[str] = manifest["shards"]
        """Name of each shard number."""
        self._sizes: list[int] | None = manifest.get("shard_bytes")  # older stores have neither
        self._rows_crc: int | None = manifest.get("rows_crc")
        self.absent: int = manifest["absent"]
        """Images without pixels; `problems` says why."""
        for name in _TABLES:
            if not (folder / name).is_file():
                raise RunError(f"{folder / name} is missing; run: scoutview store COHORT.")
        self.table = RowTable(folder / "rows.bin")
        if len(self.table) != manifest["images"]:
            raise RunError(
                f"{folder}: rows.bin has {len(self.table)} rows, store.json says"
                f" {manifest['images']}; build the store again."
            )
        self._maps: dict[int, mmap.mmap] = {}

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a store; costs the same for any number of images.

        Args:
            folder: The store's folder, or the cohort's that holds it.

        Raises:
            RunError: There is no whole store.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file() and (folder / FOLDER / MANIFEST).is_file():
            folder = folder / FOLDER
        if not (folder / MANIFEST).is_file():
            raise RunError(f"{folder} holds no finished store; run: scoutview store COHORT.")
        return cls(folder, read_json(folder / MANIFEST, schema=SCHEMA, version=VERSION))

    def __len__(self) -> int:
        return len(self.table)

    def record(self, row: int) -> Record:
        """Return one row as plain values."""
        return self.table.records(row)[0]

    def row_of(self, image_ids: Iterable[str]) -> NDArray[np.int64]:
        """Find the rows of images.

        Args:
            image_ids: Pseudonyms of the cohort.

        Returns:
            (N,) row numbers.

        Raises:
            DataError: An image is not in the store.
        """
        wanted = np.fromiter((int(name, 16) >> 1 for name in image_ids), dtype=np.int64)
        order, keys = self._by_key
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        missing = keys[place] != wanted
        if missing.any():
            raise DataError(
                f"{int(missing.sum())} of {len(wanted)} images are not in the store; build the"
                " store again for this part of the cohort."
            )
        return order[place]

    def has(self, image_ids: Iterable[str]) -> bool:
        """Tell whether every one of these images has a row."""
        wanted = np.fromiter((int(name, 16) >> 1 for name in image_ids), dtype=np.int64)
        return bool(np.isin(wanted, self._by_key[1]).all())

    @cached_property
    def _by_key(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        keys = np.ascontiguousarray(self.table.mapped["image_key"])
        order = np.argsort(keys, kind="stable")
        return order, keys[order]

    def present(self) -> NDArray[np.bool_]:
        """Tell of every row whether its pixels are there, (N,)."""
        return (self.table.mapped["flags"] & rows.PRESENT).astype(bool)

    def read(self, row: int) -> NDArray[Any]:
        """Return a whole image or volume, ([D,] H, W[, C]), stored values.

        Raw images come as read-only views of the disk: nothing is read before it is used.

        Raises:
            DataError: The row has no pixels.
            RunError: The shard is missing, cut short or visibly damaged.
        """
        return self.pixels(self.record(row))

    def crop(self, row: int, window: tuple[slice, ...]) -> NDArray[Any]:
        """Return a part of an image; of raw and chunked ones only that part is read.

        Args:
            row: Row number.
            window: One slice per axis, steps of 1; missing axes are whole.

        Raises:
            DataError: The row has no pixels.
        """
        return self.pixels(self.record(row), window)

    def pixels(self, record: Record, window: tuple[slice, ...] | None = None) -> NDArray[Any]:
        """Return the pixels of a record; `read` and `crop` for callers that have it."""
        if not record.flags & rows.PRESENT:
            raise DataError(
                "The store has no pixels of this image; problems.csv of the store says why."
            )
        mapped = self._map(record.shard)
        if record.offset + record.length > len(mapped):
            raise self._cut_short(record.shard)
        try:
            return decode(mapped, record, window)
        except (RuntimeError, ValueError) as error:  # what blosc2 raises
            path = self._shard(record.shard, ".bin")
            raise RunError(
                f"Shard {path}: an image cannot be unpacked ({error}). Find all damage with:"
                " scoutview store COHORT --verify."
            ) from error

    def _map(self, number: int) -> mmap.mmap:
        mapped = self._maps.get(number)
        if mapped is None:
            # Two threads may both map a shard; the second replaces the first, which is harmless.
            path = self._shard(number, ".bin")
            if not path.is_file() or not path.stat().st_size:
                raise self._cut_short(number)
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[number] = mapped
        return mapped

    def _cut_short(self, number: int) -> RunError:
        path = self._shard(number, ".bin")
        state = f"is cut short ({path.stat().st_size} bytes)" if path.is_file() else "is missing"
        return RunError(f"Shard {path} {state}; {LOST}.")

    def _shard(self, number: int, suffix: str) -> Path:
        return self.folder / "shards" / f"{self.shards[number]}{suffix}"

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder = state["folder"]
        self.__init__(folder, read_json(folder / MANIFEST, schema=SCHEMA, version=VERSION))  # type: ignore[misc]

    @cached_property
    def levels(self) -> NDArray[np.float32]:
        """Quantiles `rows.LEVELS` of the stored values of every row, (N, 23), on disk."""
        return self._mapped("levels.bin", np.dtype("<f4"), (len(rows.LEVELS),))

    @cached_property
    def small(self) -> NDArray[np.uint8]:
        """Every image at 32 x 32, display polarity, (N, 32, 32), on disk; zeros where absent."""
        return self._mapped("small.bin", np.dtype("u1"), (SIDE, SIDE))

    def _mapped(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return np.memmap(self.folder / name, dtype=dtype, mode="r", shape=(len(self), *shape))

    def hashes(self) -> pd.DataFrame:
        """Columns `image_id`, `content_hash` and `perceptual_hash`, one line per row."""
        path = self.folder / "hashes.parquet"
        hashes: pd.DataFrame = read_parquet(path, remedy=_WRITE_AGAIN).to_pandas()
        return hashes

    def problems(self) -> list[dict[str, str]]:
        """Images that could not be stored, or only with a flaw, as in `problems.csv`."""
        with (self.folder / "problems.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def reasons(self, image_ids: Iterable[str] | None = None) -> dict[str, int]:
        """Count problems by reason.

        Args:
            image_ids: Only those of these images; None takes all.
        """
        chosen = None if image_ids is None else set(image_ids)
        told = [row for row in self.problems() if chosen is None or row["image_id"] in chosen]
        return dict(sorted(Counter(row["reason"] for row in told).items()))

    def complete(self) -> bool:
        """Whether every shard is there in its full length; a look at names and sizes only."""
        numbers = range(len(self.shards))
        if not all(self._shard(n, end).is_file() for n in numbers for end in (".bin", ".parquet")):
            return False
        found = [self._shard(number, ".bin").stat().st_size for number in numbers]
        return found == (self._sizes or found)

    def verify(self) -> list[Damage]:
        """Read row table and shards and compare them with their checksums.

        Returns:
            Damaged images; empty if all is well.

        Raises:
            RunError: The row table is damaged, a shard is missing, or its table is not the one it
                was named for.
        """
        if self._rows_crc not in (None, crc32(self.table.mapped.view(np.uint8))):
            raise RunError(f"{self.folder / 'rows.bin'} is damaged; {_WRITE_AGAIN}.")
        damaged: list[Damage] = []
        for number, name in enumerate(self.shards):
            for suffix in (".bin", ".parquet"):
                if not self._shard(number, suffix).is_file():
                    raise RunError(f"Shard {name}{suffix} is missing; run: scoutview store COHORT.")
            columns = ["entry", "image_id", "offset", "length", "crc", "content_hash"]
            path = self._shard(number, ".parquet")
            lines = read_parquet(path, remedy=LOST, columns=columns).to_pylist()
            if address(lines) != name:
                raise RunError(f"Shard {path}: its table is damaged; {LOST}.")
            damaged += self._damage(number, lines)
        return damaged

    def _damage(self, number: int, lines: Sequence[dict[str, Any]]) -> list[Damage]:
        size = self._shard(number, ".bin").stat().st_size
        bad = []
        data = memoryview(self._map(number)) if size else memoryview(b"")
        for line in lines:
            stored = data[line["offset"] : line["offset"] + line["length"]]
            if len(stored) != line["length"] or crc32(stored) != line["crc"]:
                bad.append(Damage(line["image_id"], self.shards[number]))
        return bad
