"""`store`: a cohort in, its decoded pixels out."""

import logging
from pathlib import Path

from scoutview.api.index import open_cohort
from scoutview.base.errors import DataError, RunError
from scoutview.index.cohort import Cohort
from scoutview.store.build import StoreConfig, build_store
from scoutview.store.reader import FOLDER, MANIFEST, Store

logger = logging.getLogger(__name__)


def store(
    cohort: str | Path | Cohort,
    *,
    config: StoreConfig | None = None,
    where: str | None = None,
    workers: int | None = None,
    retry: bool = False,
    verify: bool = False,
    strict: bool = False,
) -> Path:
    """Decode every image of a cohort once; what is stored already is not done again.

    Args:
        cohort: The cohort or its folder.
        config: Codec, shard size, largest side; None keeps those of the store that is there.
        where: Expression over the cohort's columns; only these images are stored, beside those
            that an earlier call chose.
        workers: Processes; one per core by default.
        retry: Try images again that could not be decoded before.
        verify: Then read everything that is stored and compare it with its checksums.
        strict: Any problem that decoding found is an error, once everything is written.

    Returns:
        The store's folder, inside the cohort's.

    Raises:
        ConfigError: `workers` is below 1.
        DataError: No image fits, the sources are gone, or `strict` met a problem.
        RunError: `verify` found damage.
    """
    chosen, before = _with_stored(open_cohort(cohort, where))
    if config is None and _passed_on(chosen):
        opened = stored(chosen)
    else:
        opened = build_store(chosen, config or before, workers=workers, retry=retry)
    if verify:
        _verify(opened)
    if strict:
        _refuse_problems(opened)
    return opened.folder


def _passed_on(cohort: Cohort) -> bool:
    """Say whether the cohort was passed on without the table that knows its sources."""
    return not (cohort.folder / "private.parquet").is_file()


def _verify(opened: Store) -> None:
    damaged = opened.verify()
    if damaged:
        names = ", ".join(sorted({f"{damage.shard}.bin" for damage in damaged}))
        raise RunError(
            f"{len(damaged)} stored images are not as they were written; their shards in"
            f" {opened.folder / 'shards'} are {names}. Remove these and run: scoutview store"
            " COHORT, which decodes their images again; or copy a store that was passed on again."
        )


def _refuse_problems(opened: Store) -> None:
    reasons = opened.reasons()
    if reasons:
        counted = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise DataError(
            f"strict allows no problems, but decoding found {counted}; they stand in"
            f" {opened.folder / 'problems.csv'}. Correct them, or store without strict."
        )


def stored(cohort: Cohort, *, workers: int | None = None) -> Store:
    """Open the store that holds a cohort's images; what is missing is decoded first, and said.

    Settings and images of a store that is there are kept. A cohort that was passed on without its
    private table works with its store alone.

    Raises:
        DataError: Images are missing in the store and the cohort does not know its sources.
    """
    there = (cohort.folder / FOLDER / MANIFEST).is_file()
    if _passed_on(cohort):
        opened = Store.open(cohort.folder) if there else None
        if opened is None or not opened.has(cohort.table["image_id"]):
            raise DataError(
                "The cohort has no private.parquet, and its store lacks some of the images; build"
                " the store where the sources are, then pass both on."
            )
        return opened
    if not there:
        logger.info("The cohort has no store yet; decoding %d images now.", len(cohort))
    chosen, config = _with_stored(cohort)
    return build_store(chosen, config, workers=workers)  # at once when nothing has changed


def _with_stored(cohort: Cohort) -> tuple[Cohort, StoreConfig | None]:
    """Add the images that the store holds already, and find out how they are stored."""
    if not (cohort.folder / FOLDER / MANIFEST).is_file():
        return cohort, None
    opened = Store.open(cohort.folder)
    whole = Cohort.open(cohort.folder)
    keys = whole.table["image_key"]
    held = keys.isin(opened.table.mapped["image_key"]) | keys.isin(cohort.table["image_key"])
    both = Cohort(whole.folder, whole.content, held.to_numpy().nonzero()[0])
    return both, StoreConfig.build(opened.config)
