"""What a cohort holds, in numbers: for `show`, the data sheet and the first look after `index`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from scoutview.index.cohort import Cohort
from scoutview.index.columns import UNCERTAIN

_MOST_ROWS: Final = 12


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of a number; NaN where no image has it."""

    name: str
    smallest: float
    median: float
    largest: float
    unknown: int
    """Images that do not have it."""


@dataclass(frozen=True)
class LabelCount:
    """How often a label, or a class of a multi-class label, occurs."""

    name: str
    """The label, or `label=class`."""
    positive: int
    negative: int
    uncertain: int
    missing: int
    positive_by_split: Mapping[str, int]


@dataclass(frozen=True)
class Summary:
    """Counts of a cohort, or of a view of one; the last four belong to the whole cohort."""

    images: int
    volumes: int
    slices: int
    """Single images and slices of volumes together."""
    patients: int
    patient_ids_known: bool
    studies: int
    series: int
    counts: Mapping[str, Mapping[str, int]]
    """Images by modality, body part, projection, source, orientation, dtype and split."""
    geometry: Sequence[Spread]
    labels: Sequence[LabelCount]
    boxes: Mapping[str, int]
    """Boxes by label."""
    labelmaps: int
    reports: int
    burned_in: int
    """Images that say that text is burned into their pixels."""
    secondary_captures: int
    localizers: int
    monochrome1: int
    """Images whose low values are bright."""
    problems: Mapping[str, int]
    """Problems by reason."""
    non_images: Mapping[str, int]
    """Files without pixels, by kind."""
    files: int
    joins: Sequence[Mapping[str, Any]]
    """How each joined table matched: `table`, `id`, `matched`, `rows`, and `repeated` rows."""


_COUNTED: Final = (
    "modality",
    "body_part",
    "projection",
    "source",
    "orientation",
    "dtype",
    "split",
)
_MEASURED: Final = ("height", "width", "n_slices", "spacing_z", "spacing_y", "spacing_x")


def summarise(cohort: Cohort) -> Summary:
    """Count what a cohort, or a view of one, holds."""
    table = cohort.table
    counts = cohort.content["counts"]
    return Summary(
        images=int((table["kind"] == "image").sum()),
        volumes=int((table["kind"] == "volume").sum()),
        slices=int(table["n_slices"].sum()),
        patients=int(table["patient_id"].nunique()),
        patient_ids_known=cohort.patient_ids_known,
        studies=_distinct(table["study_id"]),
        series=_distinct(table["series_id"]),
        counts={name: _counted(table[name]) for name in _COUNTED},
        geometry=[_spread(table[name]) for name in _MEASURED],
        labels=_labels(cohort),
        boxes=_counted(cohort.boxes["label"]),
        labelmaps=int(table["labelmap"].sum()),
        reports=int(table["report"].sum()),
        burned_in=int((table["burned_in"] == "yes").sum()),
        secondary_captures=int(table["secondary_capture"].sum()),
        localizers=int(table["localizer"].sum()),
        monochrome1=int((table["photometric"] == "MONOCHROME1").sum()),
        problems=counts["problems"],
        non_images=counts["non_images"],
        files=counts["files"],
        joins=cohort.content["joins"],
    )


def render(summary: Summary) -> str:
    """Write a summary as plain text, about one screen."""
    s = summary
    unit = "" if s.patient_ids_known else " (patient ids are not known for all images)"
    lines = [
        f"{_of(s.images, 'image')} and {_of(s.volumes, 'volume')}"
        f" ({_of(s.slices, 'slice')} in all) of {_of(s.patients, 'patient')}{unit},"
        f" {_of(s.studies, 'study', 'studies')}, {s.series:,} series",
        "",
    ]
    for name, counted in s.counts.items():
        lines.append(f"{name.replace('_', ' '):<12} {_listed(counted)}")
    lines += ["", f"{'':<12} {'smallest':>10} {'median':>10} {'largest':>10} {'unknown':>9}"]
    lines += [_spread_line(spread) for spread in s.geometry]
    if s.labels:
        lines += ["", *_label_lines(s.labels)]
    lines += ["", *_extra_lines(s)]
    return "\n".join(lines) + "\n"


def _of(count: int, word: str, plural: str = "") -> str:
    return f"{count:,} {word if count == 1 else plural or word + 's'}"


def _distinct(values: pd.Series) -> int:
    return int(values[values != ""].nunique())


def _counted(values: pd.Series) -> dict[str, int]:
    counted = values.value_counts()
    # The larger first, names in order where equal: value_counts leaves that open.
    pairs = sorted(counted.items(), key=lambda pair: (-int(pair[1]), str(pair[0])))
    return {str(name): int(number) for name, number in pairs}


def _spread(values: pd.Series) -> Spread:
    numbers = values.to_numpy(dtype=np.float64)
    known = numbers[np.isfinite(numbers)]
    name, unknown = str(values.name), len(numbers) - len(known)
    if not len(known):
        return Spread(name, np.nan, np.nan, np.nan, unknown)
    return Spread(name, float(known.min()), float(np.median(known)), float(known.max()), unknown)


def _labels(cohort: Cohort) -> list[LabelCount]:
    table, out = cohort.table, []
    for label in cohort.labels:
        values = table[label.name]
        if label.kind == "binary":
            out.append(
                _label_count(
                    label.name, table, values == 1, values == 0, values == UNCERTAIN, values.isna()
                )
            )
            continue
        none = pd.Series(False, index=table.index)
        for name in label.classes:
            others = (values != name) & (values != "")
            full = f"{label.name}={name}"
            out.append(_label_count(full, table, values == name, others, none, values == ""))
    return out


def _label_count(
    name: str,
    table: pd.DataFrame,
    positive: pd.Series,
    negative: pd.Series,
    uncertain: pd.Series,
    missing: pd.Series,
) -> LabelCount:
    return LabelCount(
        name=name,
        positive=int(positive.sum()),
        negative=int(negative.sum()),
        uncertain=int(uncertain.sum()),
        missing=int(missing.sum()),
        positive_by_split=_counted(table["split"][positive]),
    )


def _listed(counted: Mapping[str, int]) -> str:
    shown = [f"{name or '(none)'} {number:,}" for name, number in counted.items()]
    if len(shown) > _MOST_ROWS:
        shown = [*shown[:_MOST_ROWS], f"and {len(shown) - _MOST_ROWS} more"]
    return ", ".join(shown) or "none"


def _spread_line(spread: Spread) -> str:
    numbers = (spread.smallest, spread.median, spread.largest)
    texts = ["-" if np.isnan(number) else f"{number:.4g}" for number in numbers]
    return f"{spread.name:<12} {texts[0]:>10} {texts[1]:>10} {texts[2]:>10} {spread.unknown:>9,}"


def _label_lines(labels: Sequence[LabelCount]) -> list[str]:
    width = max(12, *(len(label.name) for label in labels))
    head = f"{'label':<{width}} {'positive':>9} {'negative':>9} {'uncertain':>9} {'missing':>9}"
    lines = [head + "   positive by split"]
    for label in labels:
        lines.append(
            f"{label.name:<{width}} {label.positive:>9,} {label.negative:>9,}"
            f" {label.uncertain:>9,} {label.missing:>9,}   {_listed(label.positive_by_split)}"
        )
    return lines


def _join_line(join: Mapping[str, Any]) -> str:
    unit = "file" if join["table"] == "labelmaps" else "row"
    again = f", {join['repeated']:,} repeated" if join.get("repeated") else ""
    return f"{join['table']:<12} matched {join['matched']:,} of {_of(join['rows'], unit)}{again}"


def _extra_lines(s: Summary) -> list[str]:
    lines = [
        f"boxes        {_listed(s.boxes)}",
        f"labelmaps    {s.labelmaps:,}",
        f"reports      {s.reports:,}",
        f"files        {s.files:,} in the whole cohort",
        f"problems     {_listed(s.problems)}",
        f"not images   {_listed(s.non_images)}",
        *(_join_line(join) for join in s.joins),
    ]
    warnings = {
        "say that text is burned into their pixels": s.burned_in,
        "are secondary captures, which may show text": s.secondary_captures,
        "are localisers": s.localizers,
        "are stored with low values bright (MONOCHROME1)": s.monochrome1,
    }
    return lines + [f"{number:,} images {what}" for what, number in warnings.items() if number]
