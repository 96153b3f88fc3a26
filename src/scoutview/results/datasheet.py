"""The data sheet of a cohort: what was there, in counts, and what was dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from scoutview.results.display import MISSING, DisplayTable, aligned


@dataclass(frozen=True)
class DataSheet:
    """What the page says about the data."""

    facts: tuple[tuple[str, str], ...]
    """Name and value."""
    tables: tuple[DisplayTable, ...]
    duplicates: tuple[str, ...]
    """Sentences about copies that were found."""
    duplicate_ids: tuple[str, ...]
    """Pseudonyms of the images that were dropped."""


def data_sheet(
    table: pd.DataFrame,
    labels: Sequence[Mapping[str, Any]],
    *,
    patient_ids_known: bool,
    dropped: Sequence[Mapping[str, Any]] = (),
    problems: Mapping[str, int] | None = None,
    searched: bool = False,
) -> DataSheet:
    """Count a cohort.

    Args:
        table: The cohort's index table.
        labels: The cohort's labels: name, kind ("binary" or "multiclass"), classes.
        patient_ids_known: Whether the source names patients.
        dropped: What was dropped as a copy: `split`, `of_split`, `kind` ("exact" or "near"),
            `image_ids`.
        problems: Files that could not be used, by reason; None if unknown.
        searched: Whether copies were searched for at all.
    """
    patients = str(table["patient_id"].nunique()) if patient_ids_known else "not known"
    facts = [
        ("images and volumes", f"{len(table):,}"),
        ("patients", patients),
        ("kinds", _counts(table, "kind")),
        ("modalities", _counts(table, "modality")),
        ("body parts", _counts(table, "body_part")),
        ("projections", _counts(table, "projection")),
        ("size in pixels", _sizes(table)),
        ("pixel spacing", _spacing(table)),
        ("stored bits", _counts(table, "bits_stored")),
    ]
    if problems is not None:
        facts.append(("files with problems", _by_reason(problems)))
    sentences, names = _duplicates(dropped, searched)
    return DataSheet(
        facts=tuple(facts),
        tables=(_splits(table, labels, patient_ids_known),),
        duplicates=sentences,
        duplicate_ids=names,
    )


def _by_reason(problems: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({count:,})" for reason, count in problems.items()) or "none"


def _counts(table: pd.DataFrame, column: str) -> str:
    if column not in table:
        return MISSING
    found = table[column].value_counts()
    shown = [f"{name if name != '' else 'not stated'} ({count:,})" for name, count in found.items()]
    further = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return ", ".join(shown[:8]) + further


def _sizes(table: pd.DataFrame) -> str:
    if not {"height", "width"} <= set(table):
        return MISSING
    pairs = table[["height", "width"]].drop_duplicates()
    if len(pairs) == 1:
        return f"{pairs['height'].iloc[0]} x {pairs['width'].iloc[0]}"
    low, high = table[["height", "width"]].min(), table[["height", "width"]].max()
    return f"{low['height']} x {low['width']} to {high['height']} x {high['width']}"


def _spacing(table: pd.DataFrame) -> str:
    if "spacing_y" not in table or table["spacing_y"].isna().all():
        return "not stated"
    low, high = table["spacing_y"].min(), table["spacing_y"].max()
    missing = int(table["spacing_y"].isna().sum())
    text = f"{low:.3g} mm" if low == high else f"{low:.3g} to {high:.3g} mm"
    return text + (f", not stated for {missing:,}" if missing else "")


def _splits(
    table: pd.DataFrame, labels: Sequence[Mapping[str, Any]], patient_ids_known: bool
) -> DisplayTable:
    """Rows: images, patients, and every class of every label; columns: splits."""
    order = [name for name in ("train", "val", "test", "") if (table["split"] == name).any()]
    parts = [table[table["split"] == name] for name in order]
    rows = [("images", *(f"{len(part):,}" for part in parts))]
    if patient_ids_known:
        rows.append(("patients", *(f"{part['patient_id'].nunique():,}" for part in parts)))
    for label in labels:
        column = str(label["name"])
        if column not in table:
            continue
        for title, value in _values(label, table[column]):
            counts = [_matching(part[column], value) for part in parts]
            rows.append((title, *(f"{count:,}" for count in counts)))
    return DisplayTable(
        name="cohort",
        caption="Images per split. Missing and uncertain labels are counted where there are any.",
        columns=("", *(name or "no split" for name in order)),
        align=aligned(1 + len(order)),
        rows=tuple(rows),
    )


def _values(label: Mapping[str, Any], column: pd.Series) -> list[tuple[str, object]]:
    name = str(label["name"])
    if label.get("kind") == "multiclass":
        named: list[tuple[str, object]] = [(f"{name}: {c}", c) for c in label["classes"]]
        return [*named, (f"{name}: missing", "")] if (column == "").any() else named
    found: list[tuple[str, object]] = [(f"{name}: positive", 1.0), (f"{name}: negative", 0.0)]
    if (column == -1).any():
        found.append((f"{name}: uncertain", -1.0))
    if column.isna().any():
        found.append((f"{name}: missing", None))
    return found


def _matching(column: pd.Series, value: object) -> int:
    return int(column.isna().sum() if value is None else (column == value).sum())


def _duplicates(
    dropped: Sequence[Mapping[str, Any]], searched: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, str, str], dict[str, None]] = {}  # studies of one cohort tell the same
    for entry in dropped:
        place = (entry["split"], entry["of_split"], entry["kind"])
        found.setdefault(place, {}).update(dict.fromkeys(entry["image_ids"]))
    sentences = [
        f"{len(ids)} images of {split} are {kind} copies of images of {other}; they were dropped"
        f" from {split}."
        for (split, other, kind), ids in found.items()
    ]
    names = dict.fromkeys(
        f"{name} ({split})" for (split, _, _), ids in found.items() for name in ids
    )
    if not sentences:
        sentences.append(
            "No copies were found between the splits."
            if searched
            else "Whether images have copies in other splits was not recorded."
        )
    return tuple(sentences), tuple(names)
