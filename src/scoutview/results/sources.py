"""What the page needs of a cohort: its table, its labels, and images for thumbnails."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scoutview.base.errors import RunError
from scoutview.index.cohort import Cohort
from scoutview.pixels.intensity import Stored, default_policy, to_unit
from scoutview.results.gallery import Images
from scoutview.results.study import Study
from scoutview.store.reader import Store

logger = logging.getLogger(__name__)

THUMBNAIL: Final = 112
"""Pixels of the longer side."""


@dataclass(frozen=True)
class CohortView:
    """A cohort as the page sees it."""

    table: pd.DataFrame
    """The index table."""
    labels: Sequence[Mapping[str, Any]]
    """name, kind and classes of every label."""
    patient_ids_known: bool
    images: Images | None
    """Gives images in [0, 1]; None without a store."""
    problems: Mapping[str, int] | None = None
    """Files that could not be used, by reason."""

    def classes(self, image_ids: Iterable[str]) -> list[str]:
        """Class of each image by the first label, "" where it is missing or uncertain."""
        wanted = list(image_ids)
        if not self.labels:
            return [""] * len(wanted)
        label = self.labels[0]
        name = str(label["name"])
        column = self.table.set_index("image_id")[name].reindex(wanted)
        if label.get("kind") == "multiclass":
            return [value if isinstance(value, str) else "" for value in column]
        words = {1.0: name, 0.0: f"no {name}"}
        return [words.get(value, "") for value in column]


class StoredImages:
    """Thumbnails from a store: windowed as the modality asks, in their true proportions."""

    def __init__(self, cohort: Cohort, store: Store) -> None:
        self._table = cohort.table
        self._line = {name: i for i, name in enumerate(cohort.table["image_id"])}
        self._store = store

    def __call__(self, image_ids: Sequence[str]) -> list[NDArray[np.float32]]:
        """Read images, (H, W) or (H, W, 3) each, in [0, 1]; of a volume the middle slice."""
        places = self._store.row_of(image_ids)
        return [
            self._one(self._table.iloc[self._line[name]], int(place))
            for name, place in zip(image_ids, places, strict=True)
        ]

    def _one(self, row: pd.Series, place: int) -> NDArray[np.float32]:
        pixels = self._store.read(place)
        if row["kind"] == "volume":
            pixels = pixels[len(pixels) // 2]
        unit = to_unit(
            np.asarray(pixels),
            policy=default_policy(str(row["modality"]), str(row["dtype"])),
            stored=Stored(
                slope=float(row["slope"]),
                intercept=float(row["intercept"]),
                bits_stored=int(row["bits_stored"]),
                dtype=str(row["dtype"]),
                photometric=str(row["photometric"]),
                window_center=_known(row["window_center"]),
                window_width=_known(row["window_width"]),
            ),
        )
        tall, wide = unit.shape[:2]
        spacing = (_known(row["spacing_y"]), _known(row["spacing_x"]))
        if spacing[0] and spacing[1]:
            tall = round(tall * spacing[0] / spacing[1])
        scale = min(1.0, THUMBNAIL / max(tall, wide))
        size = (max(1, round(wide * scale)), max(1, round(tall * scale)))
        small = cv2.resize(unit, size, interpolation=cv2.INTER_AREA)
        return np.clip(small, 0.0, 1.0).astype(np.float32)


def _known(value: Any) -> float | None:
    return None if math.isnan(float(value)) else float(value)


def open_cohort(studies: Sequence[Study]) -> CohortView | None:
    """Open the cohort of the first study whose cohort is still there, None if there is none."""
    for study in studies:
        if not (study.cohort / "cohort.json").is_file():
            logger.warning("%s: its cohort is not there; the page has no data sheet.", study.path)
            continue
        cohort = Cohort.open(study.cohort)
        return CohortView(
            table=cohort.table,
            labels=[label.to_json() for label in cohort.labels],
            patient_ids_known=cohort.patient_ids_known,
            images=_stored_images(cohort),
            problems=cohort.content["counts"].get("problems"),
        )
    return None


def _stored_images(cohort: Cohort) -> Images | None:
    try:
        return StoredImages(cohort, Store.open(cohort.folder))
    except RunError as error:
        logger.warning("The page shows no images: %s", error)
        return None
