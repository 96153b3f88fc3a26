"""`index`: folders of scans and tables in, a cohort out."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scoutview.base.progress import bar
from scoutview.index.cohort import Cohort
from scoutview.index.config import IndexConfig

if TYPE_CHECKING:
    from scoutview.index.build import Progress

logger = logging.getLogger(__name__)


def index(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    config: IndexConfig | None = None,
    progress: "Progress | None" = None,
) -> Path:
    """Index scans into a cohort folder; run again, only new and changed files are read.

    Args:
        sources: Files and folders of DICOM, NIfTI, PNG, JPEG, TIFF, npz or zip; only read.
        out: The cohort folder.
        config: Labels, boxes, labelmaps and reports to join; splits; privacy key.
        progress: Called with files done and files found, beside the bar.

    Returns:
        The cohort folder.

    Raises:
        DataError: A source is missing, a table does not fit, or `config.strict` met a problem.
        RunError: `out` holds something else.
    """
    from scoutview.index.build import build_cohort  # not for all who only open a cohort

    given = [sources] if isinstance(sources, str | Path) else sources
    with bar("index") as shown:

        def report(done: int, found: int) -> None:
            shown.reach(done, found)
            if progress is not None:
                progress(done, found)

        build_cohort([Path(source) for source in given], Path(out), config, progress=report)
    return Path(out)


def open_cohort(cohort: str | Path | Cohort, where: str | None = None) -> Cohort:
    """Open a cohort, or the part of it for which an expression over its columns holds."""
    opened = cohort if isinstance(cohort, Cohort) else Cohort.open(cohort)
    return opened.where(where)
