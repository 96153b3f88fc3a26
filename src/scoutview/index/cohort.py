"""A cohort: the folder that `index` wrote, opened for reading."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np
import pandas as pd

from scoutview.base.errors import DataError, RunError, unknown
from scoutview.base.files import read_json
from scoutview.base.tables import read_parquet
from scoutview.index.labels import Label
from scoutview.index.privacy import image_key
from scoutview.index.schema import COHORT, VERSION, upgraded
from scoutview.index.select import mask
from scoutview.pixels.headers import Locator

PARTS = ("train", "val", "test", "")

INDEX_AGAIN: Final = "run index again with the same sources, which writes it anew"
"""What to do about a damaged table."""

PRIVATE_LOST: Final = (
    "restore it, or remove it and index the sources again, which changes all pseudonyms unless the"
    " cohort was made with a key file"
)
"""What to do about a damaged `private.parquet`."""


@dataclass(frozen=True)
class _Places:
    """Locators of all images, sorted by key, as columns: a hundred bytes an image."""

    keys: "np.ndarray[Any, np.dtype[np.int64]]"
    frame: pd.DataFrame


class Cohort:
    """Images that are indexed, with labels, boxes, reports and splits.

    The tables are read when they are first asked for. `where` and `split` make views of them.
    """

    def __init__(
        self, folder: Path, content: dict[str, Any], rows: "np.ndarray[Any, Any] | None" = None
    ) -> None:
        self.folder = folder
        """Where the cohort lies."""
        self.content = content
        """What `cohort.json` says: counts, labels, key fingerprint, whether patients are known."""
        self._rows = rows

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a cohort folder.

        Raises:
            RunError: It is not a cohort, is unfinished, or comes from a newer scoutview.
        """
        folder = Path(folder)
        if not (folder / "cohort.json").is_file():
            unfinished = (folder / ".building").is_dir() or (folder / "private.parquet").is_file()
            if unfinished:
                raise RunError(
                    f"The cohort {folder} is unfinished; run index again with the same sources, it"
                    " goes on where it stopped."
                )
            raise RunError(f"{folder} is not a cohort (no cohort.json); make one with index.")
        content = read_json(folder / "cohort.json", schema=COHORT, version=VERSION)
        return cls(folder, content)

    def __len__(self) -> int:
        return len(self.table)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row per image or volume; see `schema.INDEX`, then one column per label."""
        stored = read_parquet(self.folder / "index.parquet", remedy=INDEX_AGAIN)
        whole = cast(pd.DataFrame, upgraded(stored, self.content["schema_version"]).to_pandas())
        return whole if self._rows is None else whole.iloc[self._rows].reset_index(drop=True)

    @property
    def labels(self) -> list[Label]:
        """The labels of the cohort."""
        return [Label.from_json(label) for label in self.content["labels"]]

    def label(self, name: str) -> Label:
        """Return one label.

        Raises:
            ConfigError: There is none of this name.
        """
        by_name = {label.name: label for label in self.labels}
        if name not in by_name:
            raise unknown("label", name, by_name)
        return by_name[name]

    @property
    def patient_ids_known(self) -> bool:
        """Whether every image says whose it is; without, intervals may be too narrow."""
        return bool(self.content["patient_ids_known"])

    @functools.cached_property
    def boxes(self) -> pd.DataFrame:
        """Boxes of these images; see `schema.BOXES`."""
        return self._of_these("boxes.parquet")

    @functools.cached_property
    def reports(self) -> pd.DataFrame:
        """Report text of these images; see `schema.REPORTS`."""
        return self._of_these("reports.parquet")

    def _of_these(self, name: str) -> pd.DataFrame:
        whole = cast(pd.DataFrame, read_parquet(self.folder / name, remedy=INDEX_AGAIN).to_pandas())
        if self._rows is None:
            return whole
        return whole[whole["image_id"].isin(self.table["image_id"])].reset_index(drop=True)

    def where(self, expression: str | None) -> "Cohort":
        """Return the images for which an expression over the columns holds.

        Args:
            expression: For example "modality == 'CT' and n_slices >= 20"; None takes all.

        Raises:
            ConfigError: The expression cannot be read.
            DataError: It holds for no image.
        """
        if expression is None:
            return self
        chosen = mask(self.table, expression)
        if not chosen.any():
            raise DataError(
                f"No image of {len(self)} fits where = {expression!r}; see the columns with show."
            )
        return self._view(chosen)

    def select(self, image_ids: pd.Series) -> "Cohort":
        """Return the images with these ids; ids that are not here change nothing."""
        return self._view(self.table["image_id"].isin(image_ids).to_numpy())

    def split(self, name: str) -> "Cohort":
        """Return the images of one part: "train", "val", "test", or "" for those without.

        Raises:
            ConfigError: The name is none of these.
        """
        if name not in PARTS:
            raise unknown("split", name, PARTS)
        return self._view((self.table["split"] == name).to_numpy())

    def _view(self, chosen: "np.ndarray[Any, Any]") -> "Cohort":
        rows = np.arange(len(chosen)) if self._rows is None else self._rows
        view = Cohort(self.folder, self.content, rows[chosen])
        # The table is at hand; reading it again would cost more than choosing.
        view.__dict__["table"] = self.table[chosen].reset_index(drop=True)
        return view

    def locators(self, image_id: str) -> list[Locator]:
        """Return where the pixels of an image lie, slices in order. Private: source paths.

        Raises:
            DataError: There is no such image, or the private file is gone.
        """
        found = self._at(self._images, image_id)
        if not found:
            raise DataError(f"The cohort has no image {image_id!r}; take ids from its table.")
        return found

    def labelmap(self, image_id: str) -> Locator:
        """Return where the labelmap of an image lies.

        Raises:
            DataError: The image has none.
        """
        found = self._at(self._labelmaps, image_id)
        if not found:
            raise DataError(f"Image {image_id!r} has no labelmap; choose with where = 'labelmap'.")
        return found[0]

    def originals(self, image_ids: Sequence[str]) -> pd.DataFrame:
        """Resolve pseudonyms on the owner's machine.

        Returns:
            Columns `image_id`, `path`, `member`, `patient`, `study`, `series`, `image`: the first
            file of each image.
        """
        columns = ["image_id", "order", "path", "member", "patient", "study", "series", "image"]
        frame = self._private([*columns, "status"])
        first = frame[(frame["status"] == "image") & (frame["order"] == 0)]
        known = first.drop_duplicates("image_id").set_index("image_id")
        return known.reindex(list(image_ids)).reset_index()[["image_id", *columns[2:]]]

    @functools.cached_property
    def _images(self) -> _Places:
        return self._places("image")

    @functools.cached_property
    def _labelmaps(self) -> _Places:
        return self._places("labelmap")

    def _places(self, status: str) -> _Places:
        columns = ["image_id", "order", "path", "member", "item", "status"]
        frame = self._private(columns)
        frame = frame[(frame["status"] == status) & (frame["image_id"] != "")]
        frame = frame.drop(columns="status")
        keys = np.array([image_key(value) for value in frame["image_id"]], dtype=np.int64)
        order = np.lexsort((frame["order"].to_numpy(), keys))
        return _Places(keys[order], frame.iloc[order].reset_index(drop=True))

    def _private(self, columns: list[str]) -> pd.DataFrame:
        path = self.folder / "private.parquet"
        if not path.is_file():
            raise DataError(
                "The cohort has no private.parquet, so its files cannot be found; work with its"
                " store, or index the sources again."
            )
        table = read_parquet(path, remedy=PRIVATE_LOST, columns=columns)
        return cast(pd.DataFrame, table.to_pandas())

    def _at(self, places: _Places, image_id: str) -> list[Locator]:
        try:
            key = image_key(image_id)
        except ValueError:
            return []
        start, stop = np.searchsorted(places.keys, [key, key + 1])
        rows = places.frame.iloc[start:stop].to_dict("records")
        return [
            Locator(row["path"], row["member"], int(row["item"]))
            for row in rows
            if row["image_id"] == image_id
        ]
