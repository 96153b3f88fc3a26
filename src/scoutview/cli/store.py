"""`scoutview store`."""

from pathlib import Path
from typing import Literal

from scoutview.cli.terminal import note, settings


def store(
    cohort: Path,
    *,
    where: str | None = None,
    codec: Literal["raw", "lz4"] | None = None,
    max_side: int | None = None,
    workers: int | None = None,
    retry: bool = False,
    verify: bool = False,
    strict: bool = False,
) -> None:
    """Decode a cohort's pixels once into shards. Can be killed and run again.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    where
        Only images for which this holds, as "modality == 'CT' and n_slices >= 20"; what the store
        holds already stays.
    codec
        raw (default) reads fastest; lz4 needs about half the disk. Without this and --max-side a
        store that is there keeps its settings.
    max_side
        Shrink images with longer sides than this, at least 16; none by default.
    workers
        Processes, at least 1; one per core by default.
    retry
        Try images again that could not be decoded before.
    verify
        Then read everything that is stored and compare it with its checksums.
    strict
        Any problem that decoding found is an error, once everything is written.
    """
    from scoutview.api.store import store as run
    from scoutview.store.build import StoreConfig
    from scoutview.store.reader import Store

    flags = {"codec": codec, "max_side": max_side}
    given = {name: value for name, value in flags.items() if value is not None}
    folder = run(
        cohort,
        config=settings(StoreConfig, None, given, ()) if given else None,
        where=where,
        workers=workers,
        retry=retry,
        verify=verify,
        strict=strict,
    )
    opened = Store.open(folder)
    note(f"{len(opened) - opened.absent:,} images stored, {opened.absent:,} could not be decoded.")
    reasons = opened.reasons()
    if reasons:
        counted = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        note(f"Problems: {counted}; see {folder / 'problems.csv'}")
    if verify:
        note(f"{len(opened) - opened.absent:,} images checked, all as they were written.")
    note(f"Store: {folder}")
