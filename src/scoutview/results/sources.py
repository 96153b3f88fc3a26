"""What the page needs of a cohort: its table, its labels, and images for thumbnails."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from scoutview.results.gallery import Images
from scoutview.results.study import Study


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
    problems: int | None = None
    """Files that could not be read."""

    def classes(self, image_ids: Iterable[str]) -> list[str]:
        """Class of each image by the first label, "" where it is missing or uncertain."""
        if not self.labels:
            return ["" for _ in image_ids]
        label = self.labels[0]
        name = str(label["name"])
        column = self.table.set_index("image_id")[name].reindex(list(image_ids))
        if label.get("kind") == "multiclass":
            return [str(value) if isinstance(value, str) else "" for value in column]
        words = {1.0: name, 0.0: f"no {name}"}
        return [words.get(value, "") for value in column]


def open_cohort(studies: Sequence[Study]) -> CohortView | None:
    """Open the cohort of the first study whose cohort is still there, None if there is none."""
    return None
