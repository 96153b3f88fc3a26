"""Build a cohort: walk, read headers in parallel, group into images, join, write.

Nothing grows with the number of files but 8 bytes each and the ids that splits and joins need.
`cohort.json` is removed before the tables change and written last, so a cohort without it is
unfinished and is not opened; the next build goes on from the parts in `.building`. A build that is
refused changes no table: the cohort that was there stays.
"""

import logging
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scoutview.base.errors import DataError, RunError
from scoutview.base.files import remove_partial
from scoutview.base.lock import alone
from scoutview.base.tables import is_whole
from scoutview.index.attach import Attached, attach
from scoutview.index.cohort import PRIVATE_LOST, Cohort
from scoutview.index.config import IndexConfig
from scoutview.index.finish import write, write_problems
from scoutview.index.losses import warn_of_losses
from scoutview.index.parts import part_path, part_writer, read_part
from scoutview.index.privacy import key_from_file, new_key, pseudonym, write_key
from scoutview.index.scan import GroupJob, ScanJob, group, scan
from scoutview.index.schema import PRIVATE, VERSION
from scoutview.index.walk import SeenFile, walk
from scoutview.index.workers import START_SECONDS, Workers

_LOG = logging.getLogger(__name__)

BUILDING: Final = ".building"
"""Folder of an unfinished build; private like the table it becomes."""

_CHUNK: Final = 1024
_WALK: Final = 4096
_BUCKET_ROWS: Final = 2048
_SPILL_ROWS: Final = 8192
_MOST_BUCKETS: Final = 256

Progress = Callable[[int, int], object]
"""Called with the files done and the files found so far."""

Signatures = NDArray[np.int64]


def build_cohort(
    sources: Sequence[Path],
    out: Path,
    config: IndexConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Cohort:
    """Index files into a cohort folder; unchanged files of an earlier build are not read again.

    Args:
        sources: Files and folders, searched with their sub-folders. They are only read.
        out: The cohort folder: new, empty, finished or interrupted.
        config: What to join and how to split.
        progress: Told now and then how far it is.

    Returns:
        The cohort.

    Raises:
        DataError: A source is missing, a table does not fit, or `strict` met a problem.
        RunError: `out` holds something else, or another build works on it.
    """
    config = config or IndexConfig()
    out, sources = Path(out), [Path(source) for source in sources]
    _refuse_others(out)
    work = out / BUILDING
    goes_on = work.exists()
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(work, "index build"):
        # After a crash everything runs in workers, where the file that ends one is found.
        count = config.workers or os.cpu_count() or 1
        with Workers(count, patience=0.0 if goes_on else START_SECONDS) as workers:
            _build(sources, out, work, config, workers, progress)
    return Cohort.open(out)


def _build(
    sources: Sequence[Path],
    out: Path,
    work: Path,
    config: IndexConfig,
    workers: Workers,
    progress: Progress | None,
) -> None:
    _clean(out, work)
    key = _key(out, work, config)
    previous = _previous(out, key)
    skip = [out, *([config.labelmaps.folder] if config.labelmaps else [])]
    state = _state(sources, config, key)
    old = _read_signatures(previous) if previous else np.empty(0, dtype=np.int64)
    known = np.unique(np.concatenate([old, *map(_read_signatures, _parts(work))]))
    seen = _Scan(work, key, known, progress).run(walk(sources, skip), workers)
    if np.array_equal(seen, old) and _is_current(out, state):
        shutil.rmtree(work)
        _refuse_known_problems(out, config)
        return
    buckets = _spill(work, previous, seen)
    stems = sorted(workers.map(group, (GroupJob(bucket, key) for bucket in buckets)))
    if not any(len(read_part(part_path(stem, "index"))) for stem in stems):
        beside = _beside(out)
        write_problems(beside, stems, [])
        raise DataError(
            f"The sources hold {len(seen)} files but no image that can be read; see"
            f" {beside / 'problems.csv'}, and check the path."
        )
    attached = attach(stems, config, key)
    if config.strict:
        _refuse_problems(out, stems, attached)
    warn_of_losses(out, attached, key)
    names = config.labelmaps.names if config.labelmaps else {}
    write(out, stems, attached, key, state, files=len(seen), names=names)
    shutil.rmtree(work)
    _LOG.info("indexed %d files", len(seen))


def _refuse_known_problems(out: Path, config: IndexConfig) -> None:
    problems = Cohort.open(out).content["counts"]["problems"]
    if config.strict and problems:
        raise _too_many(problems, out)


def _refuse_others(out: Path) -> None:
    for path in (out, *out.parents):
        if path.is_file():
            raise RunError(
                f"{path} is a file, but out must be a folder; choose a new or empty one."
            )
    ours = [out / "cohort.json", out / "private.parquet", out / BUILDING]
    if out.exists() and any(out.iterdir()) and not any(path.exists() for path in ours):
        raise RunError(f"{out} is not empty and not a cohort; choose a new folder, or empty it.")


def _clean(out: Path, work: Path) -> None:
    """Remove what a killed build has half written."""
    (work / "parts").mkdir(mode=0o700, exist_ok=True)
    for folder in (out, work, work / "parts"):
        remove_partial(folder)


def _key(out: Path, work: Path, config: IndexConfig) -> bytes:
    """Take the shared key, or the cohort's own; parts under another key are of no use."""
    here = work / "key"
    started = bytes.fromhex(here.read_text(encoding="ascii").strip()) if here.exists() else None
    if config.key_file is not None:
        key = key_from_file(config.key_file)
    else:
        key = _private_metadata(out).get("key") or started or new_key()
    if key != started:
        shutil.rmtree(work / "parts")
        (work / "parts").mkdir(mode=0o700)
        write_key(here, key)
    return key


def _private_metadata(out: Path) -> dict[str, Any]:
    """Return key and state of an earlier build, or nothing."""
    path = out / "private.parquet"
    if not path.exists():
        return {}
    if not is_whole(path):
        raise RunError(f"{path} is damaged (not a whole Parquet file); {PRIVATE_LOST}.")
    metadata = pq.read_schema(path).metadata or {}
    return {"key": bytes.fromhex(metadata[b"key"].decode()), "state": metadata[b"state"].decode()}


def _previous(out: Path, key: bytes) -> Path | None:
    """Return the private table of an earlier build whose rows can be kept."""
    path = out / "private.parquet"
    if _private_metadata(out).get("key") != key:
        return None
    return path if pq.read_schema(path).equals(PRIVATE) else None


def _state(sources: Sequence[Path], config: IndexConfig, key: bytes) -> str:
    """Digest what a build depends on besides the sources' files; keyed, as it covers paths."""
    parts: list[str | int] = [VERSION, *sorted(str(path.absolute()) for path in sources)]
    parts.append(config.model_dump_json(exclude={"workers", "strict", "key_file"}))
    for path in _side_files(config):
        try:
            info = path.stat()
        except OSError:  # a dangling link, or gone since: reading it fails and becomes a problem
            parts += [str(path), 0, 0]
            continue
        parts += [str(path), info.st_size, info.st_mtime_ns]
    return pseudonym(key, "state", "\0".join(map(str, parts)))


def _side_files(config: IndexConfig) -> list[Path]:
    tables = [table.table for table in config.labels] + [boxes.path for boxes in config.boxes]
    tables += [config.labelmaps.folder] if config.labelmaps else []
    tables += [config.reports.path] if config.reports else []
    for number, path in enumerate(tables, 1):
        if not path.exists():
            raise DataError(f"Table or folder {number} of {len(tables)} to join does not exist.")
    return [
        file for path in tables for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
    ]


def _is_current(out: Path, state: str) -> bool:
    """Say whether the cohort was finished from the same sources, settings, tables, and is whole."""
    tables = ("index.parquet", "boxes.parquet", "reports.parquet")
    finished = (out / "cohort.json").is_file() and all(is_whole(out / name) for name in tables)
    return finished and _private_metadata(out).get("state") == state


def _read_signatures(path: Path) -> Signatures:
    """Return the signatures of the files of a part, or of a private table, sorted."""
    if path.suffix == ".arrow":
        table = read_part(path)
    else:
        columns = ["signature", "reason"]
        table = pq.read_table(path, columns=columns, use_threads=False)
        table = table.filter(pc.not_equal(table["reason"], "unreadable"))  # tried again every time
    values = np.unique(table.column("signature").to_numpy())
    return np.asarray(values[values != 0], dtype=np.int64)


def _parts(work: Path) -> list[Path]:
    return sorted((work / "parts").glob("*.arrow"))


class _Scan:
    """The walk, and the reading of what it finds that is not known yet."""

    def __init__(
        self, work: Path, key: bytes, known: Signatures, progress: Progress | None
    ) -> None:
        self._work = work
        self._key = key
        self._known = known
        self._progress = progress
        self._seen = array("q")
        self._kept = 0
        self.read = 0
        """Files whose headers were read."""

    def run(self, files: Iterator[SeenFile], workers: Workers) -> Signatures:
        """Read headers into parts.

        Returns:
            Signatures of all files of the walk, sorted.
        """
        for count in workers.map(scan, self._jobs(files)):
            self.read += count
            self._tell()
        return np.unique(np.frombuffer(self._seen, dtype=np.int64))

    def _jobs(self, files: Iterator[SeenFile]) -> Iterator[ScanJob]:
        waiting: list[SeenFile] = []
        while batch := list(islice(files, _WALK)):
            signatures = np.fromiter((file.signature for file in batch), np.int64, len(batch))
            self._seen.frombytes(signatures.tobytes())
            fresh = np.flatnonzero(~_isin(signatures, self._known))
            self._kept += len(batch) - len(fresh)
            waiting += [batch[place] for place in fresh]
            while len(waiting) >= _CHUNK:
                yield ScanJob(waiting[:_CHUNK], self._work / "parts", self._key)
                waiting = waiting[_CHUNK:]
            self._tell()
        if waiting:
            yield ScanJob(waiting, self._work / "parts", self._key)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._kept + self.read, len(self._seen))


def _isin(values: Signatures, known: Signatures) -> NDArray[np.bool_]:
    """Say which values stand in a sorted array, (N,)."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.asarray(known[place] == values, dtype=bool)


def _spill(work: Path, previous: Path | None, seen: Signatures) -> list[Path]:
    """Sort the rows of all files that still exist into buckets by group, to be read one by one.

    Returns:
        The buckets, in the order of the index.
    """
    folder = work / "buckets"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    sources = [*([previous] if previous else []), *_parts(work)]
    count = sum(len(table) for source in sources for table in _tables(source, ["signature"]))
    number = max(1, min(_MOST_BUCKETS, -(-count // _BUCKET_ROWS)))
    paths = [folder / f"{n:05d}.arrow" for n in range(number)]
    with ExitStack() as stack:
        outs = [stack.enter_context(part_writer(path, PRIVATE)) for path in paths]
        for table in _in_lots(_kept(previous, sources, seen)):
            bucket = _bucket(table.column("group").to_numpy(), number)
            order = np.argsort(bucket, kind="stable")
            table = table.take(pa.array(order))
            edges = np.searchsorted(bucket[order], np.arange(number + 1))
            for out, (start, stop) in zip(outs, pairwise(edges), strict=True):
                if stop > start:
                    out.write_table(table.slice(start, stop - start))
    return paths


def _kept(previous: Path | None, sources: Sequence[Path], seen: Signatures) -> Iterator[pa.Table]:
    """Yield the rows of files that still exist, each file once."""
    old = _read_signatures(previous) if previous else np.empty(0, dtype=np.int64)
    for source in sources:
        for table in _tables(source):
            here = table.column("signature").to_numpy()
            # A build that was killed after writing the table has left parts that it contains.
            kept = _isin(here, seen) & (_isin(here, old) == (source is previous))
            yield table if kept.all() else table.filter(kept)


def _tables(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    if path.suffix == ".arrow":
        yield read_part(path).select(columns or PRIVATE.names)
        return
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_SPILL_ROWS, columns=columns, use_threads=False):
            yield pa.Table.from_batches([batch]).replace_schema_metadata(None)


def _in_lots(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables: work on a table costs by its columns as much as by its rows."""
    lot: list[pa.Table] = []
    for table in tables:
        lot.append(table)
        if sum(map(len, lot)) >= _SPILL_ROWS:
            yield pa.concat_tables(lot).combine_chunks()
            lot = []
    if lot:
        yield pa.concat_tables(lot).combine_chunks()


def _bucket(groups: Signatures, number: int) -> NDArray[np.int64]:
    """Divide the range of groups, 63 bits, into equal buckets that keep their order."""
    return ((groups >> 31) * number) >> 32


def _refuse_problems(out: Path, stems: Sequence[Path], attached: Attached) -> None:
    beside = _beside(out)
    reasons = write_problems(beside, stems, attached.problems)
    if reasons:
        raise _too_many(reasons, beside)


def _beside(out: Path) -> Path:
    """Return where a refused build lists its problems: a finished cohort keeps its own list."""
    return out / BUILDING if (out / "cohort.json").is_file() else out


def _too_many(reasons: Mapping[str, int], folder: Path) -> DataError:
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return DataError(
        f"strict allows no problems, but there are {counted}; they stand in"
        f" {folder / 'problems.csv'}. Correct them, or index without strict."
    )
