"""`store`: a cohort in, its decoded pixels out."""

import logging
from pathlib import Path

from scoutview.api.index import open_cohort
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
) -> Path:
    """Decode every image of a cohort once; what is stored already is not done again.

    Args:
        cohort: The cohort or its folder.
        config: Codec, shard size, largest side.
        where: Expression over the cohort's columns; only these images are stored.
        workers: Processes; one per core by default.
        retry: Try images again that could not be decoded before.

    Returns:
        The store's folder, inside the cohort's.

    Raises:
        DataError: No image fits, or the sources are gone.
    """
    chosen = open_cohort(cohort, where)
    return build_store(chosen, config, workers=workers, retry=retry).folder


def stored(cohort: Cohort, *, workers: int | None = None) -> Store:
    """Open the store that holds a cohort's images; what is missing is decoded first, and said.

    A store that lacks some of the images is brought up to date for the whole cohort, so that parts
    chosen one after the other do not push each other out.
    """
    whole = Cohort.open(cohort.folder)
    if not (cohort.folder / FOLDER / MANIFEST).is_file():
        logger.info("The cohort has no store yet; decoding %d images now.", len(cohort))
        return build_store(cohort, workers=workers)
    opened = Store.open(cohort.folder)
    if len(cohort) < len(whole) and opened.has(cohort.table["image_id"]):
        return opened
    return build_store(whole, workers=workers)  # at once when nothing has changed
