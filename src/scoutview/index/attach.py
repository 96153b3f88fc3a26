"""Everything that is known about images beyond their headers: labels, boxes, reports, splits.

Works on ids and joined columns only; the wide rows stay on disk until `finish` writes them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from scoutview.base.errors import ConfigError, JoinError
from scoutview.index import splits
from scoutview.index.boxes import join_boxes
from scoutview.index.config import ColumnSplit, HoldOut, IndexConfig, KFold, SourceSplit
from scoutview.index.join import Keys, Match, unmatched_problem, written
from scoutview.index.labelmaps import join_labelmaps
from scoutview.index.labels import Label, from_source, join_labels
from scoutview.index.parts import read_parts
from scoutview.index.privacy import pseudonym
from scoutview.index.reports import join_reports
from scoutview.index.scan import GROUPED
from scoutview.index.schema import BOXES, REPORTS

_LOG = logging.getLogger(__name__)

_NEEDED = [
    "image_id", "file_id", "patient_id", "kind", "split", "fold", "height", "width", "n_slices",
]  # fmt: skip


@dataclass
class Attached:
    """What is added to the rows of the index, in their order."""

    images: pd.DataFrame
    """`image_id` and what is set here: patient_id, split, fold, labelmap, report, labels, kept."""
    labels: list[Label] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Columns of label tables that are no labels."""
    assumed: dict[str, str | None] = field(default_factory=dict)
    """Words for `modality` and `body_part` where the file says nothing."""
    boxes: pd.DataFrame = field(default_factory=lambda: BOXES.empty_table().to_pandas())
    reports: pd.DataFrame = field(default_factory=lambda: REPORTS.empty_table().to_pandas())
    private: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the private table for labelmaps."""
    patients: dict[str, str] = field(default_factory=dict)
    """Original patient id by image, where a table gave it."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    joins: list[dict[str, Any]] = field(default_factory=list)
    """How each table matched, for `cohort.json`."""
    ignored: set[str] = field(default_factory=set)
    """Columns of label tables that were not taken; not for `cohort.json`, which is shared."""
    overlap: int = 0
    """Patients in more than one part, where that was accepted."""


def attach(stems: Sequence[Path], config: IndexConfig, key: bytes) -> Attached:
    """Join tables to the grouped images and split them.

    Args:
        stems: Results of `scan.group`, in the order of the index.
        config: What to join.
        key: The cohort's secret key.

    Raises:
        JoinError: A table does not fit.
        LeakageError: The split crosses patients.
    """
    images = _read(stems, [*_NEEDED, *_columns_of(config.split)])
    out = Attached(images.assign(labelmap=False, report=False))
    _source_labels(out, stems, config.label_names)
    out.assumed = {"modality": config.modality, "body_part": config.body_part}
    if config.labels or config.boxes or config.labelmaps or config.reports:
        _join_tables(out, config, Keys.read(stems), key)
    _split(out, config)
    return out


def _columns_of(split: object) -> list[str]:
    """Name the columns of the index that a split asks for and that are not read anyway."""
    names = (
        split.stratify
        if isinstance(split, HoldOut | KFold)
        else (split.column,)
        if isinstance(split, ColumnSplit)
        else ()
    )
    return [name for name in names if name not in _NEEDED]


def _read(stems: Sequence[Path], columns: Sequence[str]) -> pd.DataFrame:
    there = [name for name in columns if name in GROUPED.names]
    tables = [part.select(there) for part in read_parts(stems, "index")]
    return cast(pd.DataFrame, pa.concat_tables(tables).to_pandas())


def _source_labels(out: Attached, stems: Sequence[Path], names: dict[str, str]) -> None:
    values: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    start = 0
    for part in read_parts(stems, "index"):
        for row, pairs in enumerate(part.column("values").to_pylist(), start):
            for name, value in pairs:
                column = values.setdefault(names.get(name, name), np.full(len(out.images), np.nan))
                column[row] = value
        start += len(part)
    labels, columns = from_source(values)
    out.labels += labels
    for label in labels:
        out.images[label.name] = columns[label.name].to_numpy()


def _join_tables(out: Attached, config: IndexConfig, keys: Keys, key: bytes) -> None:
    for table in config.labels:
        joined = join_labels(table, keys, out.patients)
        _add_labels(out, joined.labels, joined.columns)
        _add_kept(out, joined.kept)
        if joined.patients is not None:
            _add_patients(out, joined.patients, key)
        if joined.splits is not None:
            place = out.images["image_id"].map(joined.splits)
            out.images["split"] = place.where(place.notna(), out.images["split"])
        out.problems += unmatched_problem(joined.match, "label table")
        _note_table(out, "label table", joined.match)
        out.joins[-1] |= {"taken": list(joined.columns), "kept": list(joined.kept)}
        # Only their number: who takes a table as it is may not have looked at all its headings.
        out.joins[-1]["ignored"] = len(joined.ignored)
        out.ignored |= set(joined.ignored)
    for boxes_source in config.boxes:
        boxes, problems, match = join_boxes(boxes_source, out.images, keys)
        out.boxes = pd.concat([out.boxes, boxes], ignore_index=True) if len(out.boxes) else boxes
        out.problems += problems
        _note(out, "box table", match.kind, match.matched, match.total)
    if config.labelmaps is not None:
        found = join_labelmaps(config.labelmaps, out.images, keys, key)
        out.private, out.problems = found.private, out.problems + found.problems
        have = {row["image_id"] for row in found.private}
        out.images["labelmap"] = out.images["image_id"].isin(have)
        _note(out, "labelmaps", "stem", found.matched, found.matched + found.unmatched)
    if config.reports is not None:
        out.reports, problems, match = join_reports(config.reports, out.images, keys)
        out.images["report"] = out.images["image_id"].isin(out.reports["image_id"])
        out.problems += problems
        _note_table(out, "report table", match)


def _add_labels(out: Attached, labels: list[Label], columns: pd.DataFrame) -> None:
    for label in labels:
        if label.name in out.images.columns:
            raise JoinError(f"Two tables carry the label {label.name!r}; rename or drop one.")
        values = out.images["image_id"].map(columns[label.name])
        if label.kind == "multiclass":
            values = values.astype(object).where(values.notna(), "")
        out.images[label.name] = values
    out.labels += labels


def _add_kept(out: Attached, kept: pd.DataFrame) -> None:
    for name in map(str, kept.columns):
        if name in out.images.columns:
            raise JoinError(f"Two tables carry the column {name!r}; keep it of one of them.")
        values = out.images["image_id"].map(kept[name])
        out.images[name] = values.astype(object).where(values.notna(), "")
        out.kept.append(name)


def _add_patients(out: Attached, patients: pd.Series, key: bytes) -> None:
    patients = patients[patients != ""]
    pseudonyms = patients.map(lambda value: pseudonym(key, "patient", value))
    given = out.images["image_id"].map(pseudonyms)
    out.images["patient_id"] = given.where(given.notna(), out.images["patient_id"])
    out.patients |= {str(image): str(value) for image, value in patients.items()}


def _note_table(out: Attached, what: str, match: Match) -> None:
    """Note a table with one row per image; rows that say the same again are counted."""
    _note(out, what, match.kind, match.matched, match.total)
    out.joins[-1]["repeated"] = match.repeated
    if match.repeated:
        _LOG.warning(
            "%d of %d rows of the %s name an image again, with the same values",
            match.repeated,
            match.total,
            what,
        )


def _note(out: Attached, what: str, kind: str, matched: int, rows: int) -> None:
    out.joins.append({"table": what, "id": kind, "matched": matched, "rows": rows})
    if matched < rows:
        _LOG.warning("%d of %d entries of the %s match no image", rows - matched, rows, what)


def _require_kept(out: Attached, split: object) -> None:
    """Check that the columns of a split which only a label table has were kept."""
    for name in _columns_of(split):
        if name not in out.images.columns and name in out.ignored:
            raise ConfigError(
                f"The split needs the column {name!r}, which a label table has but the index does"
                f" not keep; name it {written('label table', f'keep: [{name}]')}."
            )


def _split(out: Attached, config: IndexConfig) -> None:
    images, how = out.images, config.split
    _require_kept(out, how)
    allow = False
    if isinstance(how, HoldOut):
        shares = {"train": 1 - how.val - how.test, "val": how.val, "test": how.test}
        images["split"] = splits.hold_out(images, shares, seed=how.seed, stratify=how.stratify)
    elif isinstance(how, KFold):
        inside = images["split"] != "test"
        folds = splits.k_fold(images[inside], how.folds, seed=how.seed, stratify=how.stratify)
        images["fold"] = folds.reindex(images.index, fill_value=-1).astype(np.int32)
        splits.require_apart(images, "fold")
    elif isinstance(how, ColumnSplit):
        parts = {"train": how.train, "val": how.val, "test": how.test}
        images["split"] = splits.by_column(images, how.column, parts)
        allow = how.allow_patient_overlap
    elif isinstance(how, SourceSplit):
        allow = how.allow_patient_overlap
    out.overlap = splits.require_apart(images, allow_patient_overlap=allow)
