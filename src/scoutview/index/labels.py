"""Labels: what they are, how they are joined, and how they become targets.

A binary label holds 1, 0, NaN (missing) or -1 (uncertain); a multi-class label holds the class
name, "" where missing. What uncertain means is decided when targets are made, not at the join.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BeforeValidator

from scoutview.base.errors import DataError, JoinError, masked, unknown
from scoutview.index.columns import (
    MISSING,
    SPLITS,
    UNCERTAIN,
    WORDS,
    by_image,
    found_patients,
    patient_column,
    told,
)
from scoutview.index.config import LabelColumn, LabelTable
from scoutview.index.join import (
    Keys,
    Match,
    match_table,
    refuse_conflicts,
    require_column,
    written,
)
from scoutview.index.schema import INDEX
from scoutview.index.tables import read_table

_LOG = logging.getLogger(__name__)

_WHAT: Final = "label table"

Policy = Annotated[
    Literal["ones", "zeros", "ignore"],
    BeforeValidator(
        lambda word: word.lower().removeprefix("u-") if isinstance(word, str) else word
    ),
]
"""What an uncertain label counts as: present (ones, U-Ones), absent (zeros, U-Zeros) or missing."""

_BINARY: Final = ("0", "1", "-1", "u", "(empty)")
_MOSTLY: Final = 0.5
"""Share of yes and no among the known cells above which a column is a label."""

_MOST_CLASSES: Final = 200
_LONGEST_CLASS: Final = 60


@dataclass(frozen=True)
class Label:
    """One label of a cohort."""

    name: str
    """Column of the index."""
    kind: Literal["binary", "multiclass"]
    classes: tuple[str, ...] = ()
    """Names of the classes, for "multiclass"."""

    def to_json(self) -> dict[str, Any]:
        """Return what stands in `cohort.json`."""
        return {"name": self.name, "kind": self.kind, "classes": list(self.classes)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(content["name"], content["kind"], tuple(content["classes"]))


@dataclass(frozen=True)
class Joined:
    """A label table, matched to images."""

    labels: list[Label]
    columns: pd.DataFrame
    """One column per label, index `image_id`; images without a row are absent."""
    splits: pd.Series | None
    """Part per image, if the table has one."""
    patients: pd.Series | None
    """Original patient id per image, if the table has one."""
    match: Match
    kept: pd.DataFrame
    """The columns of `keep` as words, "" where missing, index as `columns`."""
    ignored: list[str]
    """Columns that were not taken."""


def targets(table: pd.DataFrame, labels: Sequence[Label], policy: Policy) -> NDArray[np.float64]:
    """Turn labels into numbers that a loss can use.

    Args:
        table: Rows of the index.
        labels: Which labels.
        policy: What an uncertain label counts as.

    Returns:
        (N, L): per binary label one column of 1, 0 or NaN (missing); per multi-class label one
        column per class, one-hot, NaN where missing. `target_names` names the columns.

    Raises:
        DataError: A class is not in the label's list.
    """
    if policy not in ("ones", "zeros", "ignore"):
        raise unknown("uncertainty policy", policy, ("ones", "zeros", "ignore"))
    blocks = [
        _binary(table, label, policy) if label.kind == "binary" else _one_hot(table, label)
        for label in labels
    ]
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(table), 0))


def target_names(labels: Sequence[Label]) -> list[str]:
    """Name the columns of `targets`: the label, or `label=class` for multi-class labels."""
    return [
        name
        for label in labels
        for name in (
            [label.name]
            if label.kind == "binary"
            else [f"{label.name}={value}" for value in label.classes]
        )
    ]


def _binary(table: pd.DataFrame, label: Label, policy: Policy) -> NDArray[np.float64]:
    values = table[label.name].to_numpy(dtype=np.float64, copy=True)
    counts_as = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}[policy]
    values[values == UNCERTAIN] = counts_as
    return values[:, None]


def _one_hot(table: pd.DataFrame, label: Label) -> NDArray[np.float64]:
    values = table[label.name].to_numpy(dtype=object)
    known = np.array([value in label.classes for value in values])
    missing = values == ""
    if not np.all(known | missing):
        raise DataError(
            f"Label {label.name!r}: {int((~known & ~missing).sum())} values are not among its"
            f" classes {', '.join(label.classes)}; index the cohort again."
        )
    block = np.array([values == name for name in label.classes], dtype=np.float64).T
    block[missing] = np.nan
    return block


def from_source(values: dict[str, NDArray[np.float64]]) -> tuple[list[Label], pd.DataFrame]:
    """Type the labels that files carry as numbers: 0 and 1 are binary, more are classes.

    Args:
        values: Numbers per label, NaN where missing.
    """
    labels, columns = [], {}
    for name, numbers in values.items():
        found = np.unique(numbers[~np.isnan(numbers)])
        if set(found) <= {0.0, 1.0, UNCERTAIN}:
            labels.append(Label(name, "binary"))
            columns[name] = numbers
        else:
            labels.append(Label(name, "multiclass", tuple(f"{value:g}" for value in found)))
            columns[name] = np.array(
                ["" if np.isnan(value) else f"{value:g}" for value in numbers], dtype=object
            )
    return labels, pd.DataFrame(columns)


def join_labels(source: LabelTable, keys: Keys, known: Collection[str] = ()) -> Joined:
    """Read a label table and match it to the images.

    Args:
        source: The table.
        keys: The original ids.
        known: Images whose patient another table gave.

    Raises:
        JoinError: No id matches, an image has two values, or a value is not known.
    """
    frame = read_table(source.table, _WHAT, keys)
    match = match_table(frame, keys, source.id_column, _WHAT)
    found = None if source.patient_column is not None else patient_column(frame, source)
    if found is None:
        patients = by_image(frame, source.patient_column, match, keys)
    else:
        patients = found_patients(frame, found, match, keys, known)
        source = source.model_copy(update={"patient_column": None if patients is None else found})
    labels, columns, ignored = _label_columns(frame, source, str(match.ids.name), found)
    kept = _kept_columns(frame, source, [str(match.ids.name), *columns])
    for values in (*(columns[name] for name in columns), *(kept[name] for name in kept)):
        refuse_conflicts(match, values, frame, keys, _WHAT)
    once = match.pairs.drop_duplicates("image_id")
    images = once["image_id"].to_numpy()
    return Joined(
        labels=labels,
        columns=columns.iloc[once["row"]].set_axis(images, axis=0),
        kept=kept.iloc[once["row"]].set_axis(images, axis=0),
        splits=by_image(frame, source.split_column, match, keys, SPLITS),
        patients=patients,
        match=match,
        ignored=ignored,
    )


def _kept_columns(frame: pd.DataFrame, source: LabelTable, taken: Sequence[str]) -> pd.DataFrame:
    """Read the columns of `keep`; only categories pass, as the index may be shared."""
    ids_and_labels = {*taken, source.patient_column, source.split_column}
    kept: dict[str, pd.Series] = {}
    for name in source.keep:
        require_column(frame, name, _WHAT)
        if name in ids_and_labels:
            raise JoinError(
                f"keep takes columns that are neither ids, splits nor labels, got {name!r} of the"
                " label table; remove it from keep."
            )
        _refuse_taken(name, "column to keep")
        values = frame[name].str.strip()
        values = values.where(~values.str.lower().isin(["nan", "na", "n/a"]), "")
        _refuse_text(tuple(set(values) - {""}), LabelColumn(name=name))
        kept[name] = values
    return pd.DataFrame(kept, index=frame.index)


def _refuse_taken(name: str, what: str) -> None:
    if name in INDEX.names:
        raise JoinError(
            f"The {what} {name!r} has the name of a column of the index; rename it in the table."
        )


def _label_columns(
    frame: pd.DataFrame, source: LabelTable, id_column: str, found: str | None
) -> tuple[list[Label], pd.DataFrame, list[str]]:
    taken = {id_column, found, source.patient_column, source.split_column, *source.keep}
    labels: list[Label] = []
    columns: dict[str, pd.Series] = {}
    others = frame.drop(columns=[name for name in taken if name in frame.columns])
    chosen = source.columns or _binary_columns(others)
    names = {wanted.name if isinstance(wanted, LabelColumn) else wanted for wanted in chosen}
    ignored = [str(name) for name in others.columns if name not in names]
    for wanted in chosen:
        column = wanted if isinstance(wanted, LabelColumn) else _typed(frame, wanted)
        require_column(frame, column.name, _WHAT)
        for label, values in _read_column(frame[column.name], column, others):
            _refuse_taken(label.name, "label")
            labels.append(label)
            columns[label.name] = values.rename(label.name)
    # Who wrote no setting wants labels, unless patients are all that there is.
    patients = source.patient_column
    wrote = (patients and patients != found) or source.split_column or source.keep
    if not labels and not wrote and (ignored or not patients):
        raise JoinError(
            "No column of the label table holds 0 and 1 (or -1, u), so none is taken by itself;"
            f" name the label columns {written(_WHAT, 'columns: [...]')}. It has: {told(frame)}"
        )
    if ignored and not source.columns:
        _LOG.warning("columns of the label table not taken as labels: %s", told(others[ignored]))
    return labels, pd.DataFrame(columns, index=frame.index), ignored


def _binary_columns(others: pd.DataFrame) -> list[str]:
    """Take the columns of yes and no.

    Raises:
        JoinError: A column is mostly so; dropping it for a few cells would hide a label.
    """
    chosen = []
    for name in map(str, others.columns):
        values = others[name].str.strip()
        known = values[~values.str.lower().isin(list(MISSING))]
        if len(known) and _fits_binary(known).mean() > _MOSTLY:
            column = LabelColumn(name=name, kind="binary")
            _refuse_unknown(values, _fits_binary, column, _BINARY, others)
            if known.str.lower().map(WORDS).nunique() > 1:  # one value tells nothing apart
                chosen.append(name)
    return chosen


def _is_binary(values: pd.Series) -> bool:
    return bool(_fits_binary(values.str.strip()).all())


def _typed(frame: pd.DataFrame, name: str) -> LabelColumn:
    require_column(frame, name, _WHAT)
    return LabelColumn(name=name, kind="binary" if _is_binary(frame[name]) else "multiclass")


def _read_column(
    values: pd.Series, column: LabelColumn, others: pd.DataFrame
) -> list[tuple[Label, pd.Series]]:
    values = values.str.strip()
    if column.kind == "binary":
        words = values.str.lower()
        _refuse_unknown(values, _fits_binary, column, _BINARY, others)
        return [(Label(column.name, "binary"), words.map(WORDS).astype(np.float64))]
    if column.kind == "multilabel":
        return _read_multilabel(values, column, others)
    values = values.where(~values.str.lower().isin(["nan", "na", "n/a"]), "")
    classes = column.classes or tuple(sorted(set(values) - {""}))
    _refuse_text(classes, column)
    _refuse_unknown(values, lambda cells: cells.isin([*classes, ""]), column, classes, others)
    return [(Label(column.name, "multiclass", classes), values)]


def _read_multilabel(
    values: pd.Series, column: LabelColumn, others: pd.DataFrame
) -> list[tuple[Label, pd.Series]]:
    def findings(cell: str) -> set[str]:
        return {word.strip() for word in cell.split(column.separator)} - {"", column.negative}

    cells = [findings(cell) for cell in values]
    found = tuple(sorted(set().union(*cells)))
    classes = column.classes or found
    _refuse_text(classes, column)

    def fits(texts: pd.Series) -> pd.Series:
        return texts.map(lambda text: findings(text) <= set(classes)).astype(bool)

    _refuse_unknown(values, fits, column, classes, others)
    empty = (values == "").to_numpy()
    out = []
    for name in classes:
        present = np.array([float(name in cell) for cell in cells])
        present[empty] = np.nan
        out.append((Label(name, "binary"), pd.Series(present, index=values.index)))
    return out


def _fits_binary(values: pd.Series) -> pd.Series:
    return values.str.lower().isin(list(WORDS))


def _refuse_unknown(
    values: pd.Series,
    fits: Callable[[pd.Series], pd.Series],
    column: LabelColumn,
    classes: Sequence[str],
    others: pd.DataFrame,
) -> None:
    strange = values[~fits(values)].drop_duplicates()
    if len(strange):
        shown = ", ".join(masked(value) for value in strange.head(3))
        raise JoinError(
            f"Column {column.name!r} of the label table holds {len(strange)} unknown values, as"
            f" {shown}. Known: {', '.join(classes)}. Correct them, list them as classes, or"
            f" name the label columns without it {written(_WHAT, 'columns: [...]')}."
            f" {_nearest_label(fits, others.drop(columns=column.name, errors='ignore'))}"
        )


def _nearest_label(fits: Callable[[pd.Series], pd.Series], others: pd.DataFrame) -> str:
    """Name the column that holds most of the known values, if any."""
    shares = {}
    for name in others:
        known = others[name].str.strip()
        known = known[~known.str.lower().isin(list(MISSING))]
        shares[str(name)] = float(fits(known).mean()) if len(known) else 0.0
    near = max(shares, key=lambda name: shares[name], default="")
    if not near or shares[near] == 0:
        return "No other column holds known values."
    return f"Column {near!r} comes nearest ({shares[near]:.0%} known values)."


def _refuse_text(classes: Sequence[str], column: LabelColumn) -> None:
    """Free text must not become class names, which stand in shared files."""
    longest = max(map(len, classes), default=0)
    if len(classes) > _MOST_CLASSES or longest > _LONGEST_CLASS:
        raise JoinError(
            f"Column {column.name!r} of the label table looks like free text or ids:"
            f" {len(classes)} values, up to {longest} characters; a column may have at most"
            f" {_MOST_CLASSES} values of {_LONGEST_CLASS} characters."
        )
