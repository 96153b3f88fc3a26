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
        Shrink images with longer sides than this.
    workers
        Processes; one per core by default.
    retry
        Try images again that could not be decoded before.
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
    )
    opened = Store.open(folder)
    note(f"{len(opened) - opened.absent:,} images stored, {opened.absent:,} could not be decoded.")
    if opened.absent:
        note(f"Reasons: {folder / 'problems.csv'}")
    note(f"Store: {folder}")
