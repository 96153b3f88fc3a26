"""What columns of a label table are, told from names and cells where no setting says it."""

import logging
from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import pandas as pd

from scoutview.base.errors import JoinError
from scoutview.index.config import LabelColumn, LabelTable
from scoutview.index.join import Keys, Match, refuse_conflicts, require_column, written

_LOG = logging.getLogger(__name__)

_WHAT: Final = "label table"

UNCERTAIN: Final = -1.0

WORDS: Final = {
    "1": 1.0, "1.0": 1.0, "true": 1.0, "yes": 1.0, "positive": 1.0,
    "0": 0.0, "0.0": 0.0, "false": 0.0, "no": 0.0, "negative": 0.0,
    "-1": UNCERTAIN, "-1.0": UNCERTAIN, "u": UNCERTAIN, "uncertain": UNCERTAIN,
    "": np.nan, "nan": np.nan, "na": np.nan, "n/a": np.nan, "none": np.nan, "null": np.nan,
}  # fmt: skip
MISSING: Final = frozenset(word for word, value in WORDS.items() if np.isnan(value))
SPLITS: Final = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test", "": "",
}  # fmt: skip

_FEW_CLASSES: Final = 20
_PATIENT: Final = ("patientid", "patient", "subjectid", "subject", "pid")
"""Names of a column of patients, the surest first, in small letters without spaces or marks."""


def patient_column(frame: pd.DataFrame, source: LabelTable) -> str | None:
    """Return the column that holds patients by its name, if no other setting names it."""
    labels = {name.name if isinstance(name, LabelColumn) else name for name in source.columns}
    free = [name for name in frame.columns if name not in {*labels, *source.keep}]
    named = {_bare(str(name)): str(name) for name in free if name != source.split_column}
    return next((named[name] for name in _PATIENT if name in named), None)


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def found_patients(
    frame: pd.DataFrame, column: str, match: Match, keys: Keys, known: Collection[str]
) -> pd.Series | None:
    """Read a column that is named like one of patients, for the images that have none so far.

    Args:
        frame: The table.
        column: What `patient_column` found.
        match: Which images its rows are.
        keys: The original ids.
        known: Images whose patient another table gave.

    Returns:
        Patients by image; None if all images have theirs.

    Raises:
        JoinError: An image has two patients.
    """
    lacking = set(match.pairs["image_id"]).difference(known, keys.table("patient")["image_id"])
    if not lacking:
        return None
    setting = written(_WHAT, 'patient_column: ""')
    how = f'if it is something else, name the right column, or "" for none, {setting}.'
    try:
        patients = by_image(frame, column, match, keys)
    except JoinError as error:
        raise JoinError(f"{error} It is taken as the patient: {how}") from error
    if patients is None:
        return None
    patients = patients[patients.index.isin(lacking) & (patients != "")]
    if patients.empty:
        return None
    _LOG.warning(
        "column %r of the label table is taken as the patient of %d images whose files name none;"
        " %s",
        column,
        len(patients),
        how,
    )
    return patients


def by_image(
    frame: pd.DataFrame,
    column: str | None,
    match: Match,
    keys: Keys,
    words: Mapping[str, str] | None = None,
) -> pd.Series | None:
    """Return a column's values per image, None if no column is named.

    Args:
        frame: The table.
        column: Its column; None and "" are none.
        match: Which images its rows are.
        keys: The original ids.
        words: What a value may be, and what it means; None takes ids as they are.

    Raises:
        JoinError: The column does not exist, a value is no such word, or an image has two.
    """
    if not column:
        return None
    require_column(frame, column, _WHAT)
    values = frame[column].str.strip()
    if words is not None:
        values = values.str.lower()
        strange = values[~values.isin(list(words))]
        if len(strange):
            raise JoinError(
                f"Column {column!r} of the label table must hold train, val or test; got"
                f" {strange.nunique()} other words."
            )
        values = values.map(words)
    else:
        values = values.where(~values.str.lower().isin(list(MISSING)), "")
    refuse_conflicts(match, values, frame, keys, _WHAT)
    once = match.pairs.drop_duplicates("image_id")
    return values.iloc[once["row"]].set_axis(once["image_id"].to_numpy())


def told(frame: pd.DataFrame) -> str:
    """List columns, what they look like where that explains it, and how to take one."""
    shown, example, parts = [], "", ""
    for name in map(str, frame.columns):
        values = frame[name].str.strip()
        known = values[~values.str.lower().isin(list(MISSING))]
        count = known.nunique()
        if known.str.lower().map(lambda word: str(WORDS.get(word, word))).nunique() == 1:
            shown.append(f"{name} (one value)")
        elif _like_parts(known):
            shown.append(f"{name} (train, val, test)")
            own = written(_WHAT, f"split_column: {name}")
            parts = parts or f" The split that the table has is taken {own}, with --split source."
        elif _like_classes(known):
            shown.append(f"{name} ({count} classes)")
            example = (
                example or f" Classes are taken by columns: [{{name: {name}, kind: multiclass}}]."
            )
        else:
            shown.append(name)
    return f"{', '.join(shown)}.{example}{parts}"


def _like_parts(known: pd.Series) -> bool:
    """Say whether cells are names of parts of a split, and of more than one."""
    parts = known.str.lower().map(SPLITS)
    return bool(parts.notna().all()) and parts.nunique() > 1


def _like_classes(known: pd.Series) -> bool:
    """Say whether cells are words without digits, which ids have, and each occurs about twice."""
    few = 2 <= known.nunique() <= min(_FEW_CLASSES, len(known) // 2)
    return few and not known.str.contains(r"\d").any()
