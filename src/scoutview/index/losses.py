"""What a new build of a cohort would no longer hold, told before it replaces the old one."""

import logging
from pathlib import Path

import numpy as np

from scoutview.base.errors import RunError
from scoutview.base.tables import read_parquet
from scoutview.index.attach import Attached
from scoutview.index.cohort import INDEX_AGAIN, Cohort
from scoutview.index.privacy import fingerprint, image_key

_LOG = logging.getLogger(__name__)


def warn_of_losses(out: Path, attached: Attached, key: bytes) -> None:
    """Warn of what the finished cohort in `out` has and the new one lacks.

    Args:
        out: The cohort folder, as the previous build left it.
        attached: The images and labels that come.
        key: The secret key of the new cohort.
    """
    if not (out / "cohort.json").is_file():
        return
    try:
        before = Cohort.open(out)
        labels = {label.name for label in before.labels} - {label.name for label in attached.labels}
        joined = _lost_joins(before, attached)
        images = _lost_images(before, attached, key)
    except RunError:  # damaged or too new: the build replaces it, and nothing can be compared
        return
    if labels:
        _LOG.warning(
            "%d of %d labels that the cohort had are gone; to keep them, index with the same label"
            " tables and settings as before",
            len(labels),
            len(before.labels),
        )
    if joined:
        _LOG.warning(
            "%s that the cohort had are gone; to keep them, name the same tables as before",
            joined,
        )
    if images:
        _LOG.warning(
            "%d of %d images that the cohort had are gone; to keep them, name all sources in one"
            " call of index",
            images,
            before.content["counts"]["rows"],
        )


def _lost_joins(before: Cohort, attached: Attached) -> str:
    """Name the kinds of joined data of which nothing comes, and kept columns that do not come."""
    counts = before.content["counts"]
    come = {
        "boxes": len(attached.boxes),
        "reports": len(attached.reports),
        "labelmaps": len(attached.private),
    }
    lost = [f"all {counts[kind]} {kind}" for kind, n in come.items() if counts[kind] and not n]
    columns = set(before.content["kept"]) - set(attached.kept)
    if columns:
        lost.append(f"{len(columns)} of {len(before.content['kept'])} kept columns")
    return " and ".join(lost)


def _lost_images(before: Cohort, attached: Attached, key: bytes) -> int:
    if before.content["key_fingerprint"] != fingerprint(key):  # other pseudonyms: only counts say
        return max(0, int(before.content["counts"]["rows"]) - len(attached.images))
    path = before.folder / "index.parquet"
    table = read_parquet(path, remedy=INDEX_AGAIN, columns=["image_key"])
    come = np.fromiter(map(image_key, attached.images["image_id"]), np.int64, len(attached.images))
    return int((~np.isin(table.column("image_key").to_numpy(), come)).sum())
