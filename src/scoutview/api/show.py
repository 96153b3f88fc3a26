"""`show`: what a cohort holds, in numbers and in pictures."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scoutview.api.index import open_cohort
from scoutview.base.errors import ConfigError, DataError, RunError
from scoutview.base.randomness import SAMPLING, generator
from scoutview.index.cohort import Cohort
from scoutview.index.summary import render, summarise
from scoutview.pixels.geometry import to_display
from scoutview.pixels.intensity import Stored, default_policy, to_unit
from scoutview.pixels.read import read
from scoutview.results.contact_sheet import check_place, contact_sheet
from scoutview.store.duplicates import known_duplicates
from scoutview.store.reader import Store
from scoutview.tasks.leakage import told_crossing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """What `show` found."""

    text: str
    """Counts, geometry, labels, problems, copies."""
    sheet: Path | None
    """The contact sheet, None if none was asked for."""
    originals: pd.DataFrame | None
    """With `private`: pseudonyms and what they stand for."""
    copies: pd.DataFrame | None = None
    """Pairs of images with the same pixels, as `store.duplicates.find_duplicates` lists them; None
    before the store holds all of these images."""


def show(
    cohort: str | Path | Cohort,
    *,
    where: str | None = None,
    sheet: str | Path | None = None,
    images: int = 24,
    seed: int = 0,
    private: bool = False,
) -> Shown:
    """Describe a cohort.

    Copies of images are looked for once the store holds the pixels, and kept there.

    Args:
        cohort: The cohort or its folder.
        where: Expression over the cohort's columns.
        sheet: PNG to write a contact sheet to, a new file or an earlier sheet: images in
            radiological orientation with the default intensity policy of their modality, the middle
            slice of volumes; None writes none.
        images: Images on the sheet, at least 1, spread evenly over the modalities.
        seed: Which images those are.
        private: Resolve the pseudonyms of the sheet's images on the owner's machine.

    Returns:
        Text, sheet, and with `private` the table of originals.

    Raises:
        ConfigError: `images` is below 1, or `sheet` does not end in .png.
        RunError: `sheet` exists and is no contact sheet.
        DataError: No image fits `where`, or none of the chosen can be read.
    """
    if images < 1:
        raise ConfigError(f"images must be >= 1, got {images}; for no sheet, leave sheet out.")
    if sheet is not None:
        check_place(sheet)
    chosen = open_cohort(cohort, where)
    opened = _opened(chosen)
    copies, told = _copies(chosen, opened)
    text = render(summarise(chosen)) + _decoding(chosen, opened) + told
    rows = _sample(chosen.table, images, seed)
    written = None if sheet is None else _write_sheet(chosen, rows, Path(sheet))
    originals = chosen.originals(list(rows["image_id"])) if private else None
    return Shown(text, written, originals, copies)


def _opened(cohort: Cohort) -> Store | None:
    try:
        return Store.open(cohort.folder)
    except RunError:
        return None


def _decoding(cohort: Cohort, store: Store | None) -> str:
    """Count the problems that only decoding finds, in a line of the summary."""
    if store is None:
        return ""
    reasons = store.reasons(cohort.table["image_id"])
    counted = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
    return f"{'decoding':<13}{f'problems {counted}' if counted else 'no problems'}\n"


def _copies(cohort: Cohort, store: Store | None) -> tuple[pd.DataFrame | None, str]:
    """Look for images with the same pixels, and say what was found, in lines of the summary."""
    head = f"{'copies':<13}"
    if store is None:
        return None, f"{head}not looked for: there is no store yet\n"
    if not store.has(cohort.table["image_id"]):
        return None, f"{head}not looked for: the store lacks some of these images\n"
    pairs = known_duplicates(store, cohort)
    counts = pairs.drop_duplicates("image_id_b")["kind"].value_counts()  # a is the earlier image
    lines = [head + (", ".join(f"{kind} {counts[kind]:,}" for kind in counts.index) or "none")]
    crossing = told_crossing(cohort.table.set_index("image_id")["split"], pairs)
    if crossing:
        lines.append(f"Copies of images cross the split: {crossing}.")
    return pairs, "\n".join(lines) + "\n"


def _sample(table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Draw images, as evenly over the modalities as they allow, in the table's order."""
    rng = generator(seed, SAMPLING)
    shuffled = table.iloc[rng.permutation(len(table))]
    turn = shuffled.groupby("modality").cumcount()
    return shuffled.loc[turn.sort_values(kind="stable").index[:count]].sort_index()


def _write_sheet(cohort: Cohort, rows: pd.DataFrame, path: Path) -> Path:
    pictures, captions, spacings = [], [], []
    for values in rows.to_dict("records"):
        record = {str(name): value for name, value in values.items()}
        try:
            pictures.append(_picture(cohort, record))
        except DataError as error:
            logger.warning("Left out of the contact sheet: %s", error)
            continue
        captions.append(_caption(record))
        spacings.append(_spacing(record))
    if not pictures:
        raise DataError("None of the chosen images can be read; see problems.csv of the cohort.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return contact_sheet(path, pictures, captions, spacings=spacings)


def _picture(cohort: Cohort, record: dict[str, Any]) -> NDArray[np.float32]:
    locators = cohort.locators(record["image_id"])
    if record["kind"] == "volume" and len(locators) > 1:
        locators = [locators[len(locators) // 2]]  # one file per slice: the middle one is enough
    values = read(locators if len(locators) > 1 else locators[0])
    if record["channels"] == 3:
        values = values if values.ndim == 3 else values[len(values) // 2]
        return np.asarray(values, dtype=np.float32) / np.float32(np.iinfo(values.dtype).max)
    if values.ndim == 3:
        values = values[len(values) // 2]
    unit = to_unit(
        values,
        policy=default_policy(record["modality"], record["dtype"]),
        stored=Stored(
            slope=record["slope"],
            intercept=record["intercept"],
            bits_stored=record["bits_stored"],
            photometric=record["photometric"],
            window_center=_known(record["window_center"]),
            window_width=_known(record["window_width"]),
        ),
    )
    return np.ascontiguousarray(to_display(unit, record["orientation"]))


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _caption(record: dict[str, Any]) -> str:
    slices = f", slice {record['n_slices'] // 2 + 1} of {record['n_slices']}"
    depth = slices if record["n_slices"] > 1 else ""
    return f"{record['image_id'][:8]} {record['modality']}{depth}"


def _spacing(record: dict[str, Any]) -> tuple[float, float] | None:
    row, column = _known(record["spacing_y"]), _known(record["spacing_x"])
    if row is None or column is None:
        return None
    turned = record["orientation"] != "" and _turns(record["orientation"])
    return (column, row) if turned else (row, column)


def _turns(code: str) -> bool:
    """Tell whether `to_display` swaps rows and columns."""
    probe = np.zeros((2, 3))
    return bool(to_display(probe, code).shape == (3, 2))
