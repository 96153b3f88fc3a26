"""Find copies: exact by content hash, near by perceptual hash, confirmed on pixels.

No comparison of all pairs: near copies are looked up in an index over the four 16-bit bands of the
hashes (Norouzi et al., Fast search in Hamming space with multi-index hashing, CVPR 2012), for every
image in 49 shifted versions. What is within a few bits is compared by its small image, then by its
pixels.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scoutview.base.files import atomic_writer
from scoutview.base.tables import is_whole
from scoutview.store import rows
from scoutview.store.hashes import MARGIN, SIDE, shifted_hashes
from scoutview.store.reader import Store

if TYPE_CHECKING:
    from scoutview.index.cohort import Cohort

logger = logging.getLogger(__name__)

RADIUS: Final = 8
"""Most bits in which the hashes of a candidate pair differ."""

CORRELATION: Final = 0.99
"""Smallest pixel correlation of a copy, at the best shift."""

_SMALL_CORRELATION: Final = 0.95
_COARSE_SIDE: Final = 128
_BANDS: Final = 4
_BAND_BITS: Final = 16
_PREFIXES: Final = (16, 24, 32, 64)
_BUCKET: Final = 4096
_CHUNK: Final = 1 << 22
_QUERIES: Final = 4096

COLUMNS: Final = ["image_id_a", "image_id_b", "kind", "split_a", "split_b", "correlation"]

_SCHEMA: Final = pa.schema(
    [(name, pa.float64() if name == "correlation" else pa.string()) for name in COLUMNS]
)
_VERSION: Final = 1
"""Of what `known_duplicates` keeps: a change of the search needs the next number."""

Index = NDArray[np.int64]


def known_duplicates(store: Store, cohort: "Cohort") -> pd.DataFrame:
    """`find_duplicates` within one cohort; the answer is kept in the store for who asks next.

    What is kept is addressed by the images, their hashes and their splits, so it cannot be stale.

    Args:
        store: The store of `cohort`.
        cohort: The images to look at.

    Returns:
        As `find_duplicates`.
    """
    kept = store.folder / f"duplicates-{_Part.of(store, cohort).digest}.parquet"
    if is_whole(kept):
        found: pd.DataFrame = pq.read_table(kept, schema=_SCHEMA).to_pandas()
        return found
    table = pa.Table.from_pandas(
        find_duplicates(store, cohort), schema=_SCHEMA, preserve_index=False
    )
    try:
        with atomic_writer(kept) as stream:
            pq.write_table(table, stream)
    except OSError as error:  # a store may lie where this user must not write
        logger.info("duplicates: not kept for the next time (%s)", error.strerror)
    found = table.to_pandas()
    return found


def find_duplicates(
    store: Store,
    cohort: "Cohort",
    *,
    against: tuple[Store, "Cohort"] | None = None,
    near: bool = True,
) -> pd.DataFrame:
    """List images that show the same pixels.

    Args:
        store: The store of `cohort`.
        cohort: The images to look at; a view of a cohort looks at its part only.
        against: A second store and cohort; then only copies between the two are listed, `a` from
            the first and `b` from the second.
        near: Look for shifted and re-windowed copies as well.

    Returns:
        Columns `COLUMNS`. `kind` is "exact" or "near". Of many equal images each is listed with the
        first of every split, so that no copy across splits is missed and no list grows as a square.
    """
    first = _Part.of(store, cohort)
    second = first if against is None else _Part.of(*against)
    lines = list(_exact(first, second))
    if near:
        lines += _near(first, second)
    return pd.DataFrame(lines, columns=COLUMNS)


@dataclass(frozen=True)
class _Part:
    """The images of a cohort that have pixels."""

    store: Store
    row: Index
    image_id: NDArray[Any]
    split: NDArray[Any]
    content: NDArray[Any]
    perceptual: NDArray[np.uint64]

    @property
    def digest(self) -> str:
        """Changes when an image, its pixels or its split does, or how copies are searched for."""
        digest = hashlib.blake2b(f"{_VERSION}|{RADIUS}|{CORRELATION}".encode(), digest_size=8)
        for column in (self.image_id, self.split, self.content):
            digest.update("\n".join(map(str, column)).encode())
        digest.update(np.ascontiguousarray(self.perceptual).tobytes())
        return digest.hexdigest()

    @classmethod
    def of(cls, store: Store, cohort: "Cohort") -> "_Part":
        table = cohort.table
        row = store.row_of(table["image_id"])
        there = store.present()[row]
        row = row[there]
        hashes = store.hashes().iloc[row]
        return cls(
            store,
            row,
            table["image_id"].to_numpy(dtype=object)[there],
            table["split"].to_numpy(dtype=object)[there],
            hashes["content_hash"].to_numpy(dtype=object),
            hashes["perceptual_hash"].to_numpy(dtype=np.uint64),
        )


def _line(a: _Part, i: int, b: _Part, j: int, kind: str, correlation: float) -> tuple[Any, ...]:
    return a.image_id[i], b.image_id[j], kind, a.split[i], b.split[j], correlation


def _exact(first: _Part, second: _Part) -> Iterator[tuple[Any, ...]]:
    """Pair every image with the first equal one of each split."""
    leaders: dict[str, dict[str, int]] = {}
    for j, content in enumerate(second.content):
        leaders.setdefault(content, {}).setdefault(second.split[j], j)
    listed: set[tuple[int, int]] = set()
    for i, content in enumerate(first.content):
        for j in leaders.get(content, {}).values():
            pair = (min(i, j), max(i, j)) if first is second else (i, j)
            if (first is second and i == j) or pair in listed:
                continue
            if not np.array_equal(
                first.store.read(int(first.row[i])), second.store.read(int(second.row[j]))
            ):
                continue
            listed.add(pair)
            yield _line(first, pair[0], second, pair[1], "exact", 1.0)


def _near(first: _Part, second: _Part) -> list[tuple[Any, ...]]:
    looked = np.flatnonzero(first.perceptual)  # 0 is an image of one value: it resembles nothing
    target = np.flatnonzero(second.perceptual)
    index = HashIndex(second.perceptual[target])
    candidates = compared = 0
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(looked), _QUERIES):
        queries = looked[start : start + _QUERIES]
        probes = shifted_hashes(first.store.small[first.row[queries]])
        query, match = index.within(probes, RADIUS)
        for i, j in zip(queries[query].tolist(), target[match].tolist(), strict=True):
            pair = (min(i, j), max(i, j)) if first is second else (i, j)
            if (first is second and i == j) or first.content[i] == second.content[j]:
                continue
            if pair in found:
                continue
            candidates += 1
            small = first.store.small[first.row[i]], second.store.small[second.row[j]]
            if _shifted_correlation(*small, MARGIN)[0] < _SMALL_CORRELATION:
                continue
            compared += 1
            found[pair] = correlation(_plane(first, i), _plane(second, j))
    logger.info("duplicates: %d candidates, %d compared on pixels", candidates, compared)
    if index.cut:
        logger.warning(
            "duplicates: %d look-ups met more than %d images of one hash and were cut short",
            index.cut,
            _BUCKET,
        )
    return [
        _line(first, i, second, j, "near", value)
        for (i, j), value in sorted(found.items())
        if value >= CORRELATION
    ]


def _plane(part: _Part, i: int) -> NDArray[Any]:
    """Return the image, or the middle slice of a volume, as float32 and in display polarity."""
    record = part.store.record(int(part.row[i]))
    window = None
    if record.flags & rows.VOLUME:
        window = (slice(record.depth // 2, record.depth // 2 + 1),)
    pixels = part.store.pixels(record, window).astype(np.float32)
    pixels = pixels[0] if window else pixels
    plane = pixels.mean(axis=2) if pixels.ndim > 2 else pixels
    plane = np.nan_to_num(plane)
    return -plane if record.flags & rows.INVERTED else plane


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson correlation of two images at their best shift.

    Shifts of up to 3/32 of a side are tried, first coarsely, then around the best at full size. An
    affine change of intensity does not change the result.

    Args:
        a: (H, W).
        b: (H', W'); resized to the smaller of the two where sizes differ.

    Returns:
        Correlation in [-1, 1] over the inner part that both show; 0 if proportions differ by more
        than 5 %.
    """
    proportions = (a.shape[0] * b.shape[1]) / (a.shape[1] * b.shape[0])
    if not 0.95 <= proportions <= 1.05:
        return 0.0
    if a.shape != b.shape:
        height, width = min(a.shape, b.shape)
        a = cv2.resize(a, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
        b = cv2.resize(b, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    scale = max(1.0, max(a.shape) / _COARSE_SIDE)
    if scale == 1.0:
        return _shifted_correlation(a, b, _reach(a))[0]
    size = (round(a.shape[1] / scale), round(a.shape[0] / scale))
    coarse = [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (a, b)]
    _, (dy, dx) = _shifted_correlation(coarse[0], coarse[1], _reach(coarse[0]))
    return _correlation_around(a, b, round(dy * scale), round(dx * scale), int(np.ceil(scale)))


def _reach(image: NDArray[Any]) -> int:
    side = int(min(image.shape))
    return max(1, min(side * MARGIN // SIDE + 1, (side - 1) // 3))


def _shifted_correlation(
    a: NDArray[Any], b: NDArray[Any], reach: int
) -> tuple[float, tuple[int, int]]:
    """Return the best correlation of the inner part of `a` with `b`, and where in `b` it lies."""
    inner = a[reach:-reach, reach:-reach]
    if inner.min() == inner.max():
        return 0.0, (0, 0)
    scores = cv2.matchTemplate(b, np.ascontiguousarray(inner), cv2.TM_CCOEFF_NORMED)
    scores[~np.isfinite(scores) | (scores > 1.001)] = 0.0  # windows of one value
    best = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[best]), (int(best[0]) - reach, int(best[1]) - reach)


def _correlation_around(
    a: NDArray[np.float32], b: NDArray[np.float32], dy: int, dx: int, reach: int
) -> float:
    """Best correlation at full size for shifts within `reach` of (dy, dx)."""
    height, width = a.shape
    top, left = max(0, dy), max(0, dx)
    b = b[top : height + min(0, dy), left : width + min(0, dx)]
    top, left = max(0, -dy), max(0, -dx)
    a = a[top : top + b.shape[0], left : left + b.shape[1]]
    return _shifted_correlation(a, b, reach)[0]


class HashIndex:
    """Finds hashes that differ in few bits; memory 64 bytes a hash."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        """Sort the hashes once per band.

        Args:
            hashes: (N,).
        """
        self.cut = 0
        """Look-ups that were cut short because too many hashes are equal."""
        self._bands = []
        for band in range(_BANDS):
            turned = _turned(hashes, band)
            order = np.argsort(turned, kind="stable")
            self._bands.append((turned[order], order))

    def within(self, probes: NDArray[np.uint64], radius: int) -> tuple[Index, Index]:
        """Find the hashes that share a band with a probe and differ in at most `radius` bits.

        All hashes within 3 bits are found, most within `radius`. Where more than 4,096 hashes share
        a band, the next 8 or 16 bits have to agree as well.

        Args:
            probes: (M, P): P versions of M images.
            radius: Most bits that may differ.

        Returns:
            Image number in [0, M) and hash number in [0, N) of every match, each pair once.
        """
        flat = probes.reshape(-1)
        found = [np.empty((0, 2), dtype=np.int64)]
        for band in range(_BANDS):
            for probe, match in self._in_band(flat, band, radius):
                pairs = np.stack([probe // probes.shape[1], match], axis=1)
                found.append(np.unique(pairs, axis=0))
        pairs = np.unique(np.concatenate(found), axis=0)
        return pairs[:, 0], pairs[:, 1]

    def _in_band(
        self, probes: NDArray[np.uint64], band: int, radius: int
    ) -> Iterator[tuple[Index, Index]]:
        keys, order = self._bands[band]
        turned = _turned(probes, band)
        low, high = self._buckets(keys, turned)
        ends = np.cumsum(high - low)
        start = 0
        while start < len(probes):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
            count = (high - low)[start:stop]
            which = np.repeat(np.arange(start, stop), count)
            first = np.repeat(low[start:stop] - (ends[start:stop] - count - done), count)
            place = first + np.arange(len(which))
            close = np.bitwise_count(keys[place] ^ turned[which]) <= radius
            yield which[close], order[place[close]]
            start = stop

    def _buckets(self, keys: NDArray[np.uint64], turned: NDArray[np.uint64]) -> tuple[Index, Index]:
        """Range of sorted keys that share the first bits; more bits where too many do."""
        low = np.zeros(len(turned), dtype=np.int64)
        high = np.zeros(len(turned), dtype=np.int64)
        todo = np.arange(len(turned))
        for bits in _PREFIXES:
            free = np.uint64((1 << (64 - bits)) - 1)
            chosen = turned[todo]
            low[todo] = np.searchsorted(keys, chosen & ~free, side="left")
            high[todo] = np.searchsorted(keys, chosen | free, side="right")
            todo = todo[high[todo] - low[todo] > _BUCKET]
        self.cut += len(todo)
        high[todo] = low[todo] + _BUCKET
        return low, high


def _turned(hashes: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    """Rotate the bits so that one band comes first."""
    if band == 0:
        return hashes
    shift = np.uint64(_BAND_BITS * band)
    return (hashes << shift) | (hashes >> (np.uint64(64) - shift))
