"""Numbers as people read them: formatted tables for the page, Markdown and LaTeX."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd

from scoutview.results.collect import Collection
from scoutview.results.tables import Cell, Tables
from scoutview.stats.calibration import brier, calibration_line, expected_calibration_error
from scoutview.stats.estimate import Comparison, Estimate

Align = Literal["left", "right"]
MISSING: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class DisplayTable:
    """A table ready to be shown."""

    name: str
    """Name of the file, without its ending."""
    caption: str
    columns: tuple[str, ...]
    align: tuple[Align, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()
    """Rows to be emphasised."""
    cards: bool = False
    """Show each row as a block on a phone, so that no column needs scrolling to."""


def number(value: float, digits: int = 3) -> str:
    """Format a number, a dash where there is none."""
    return MISSING if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """Format a difference with its sign."""
    return MISSING if math.isnan(value) else f"{value:+.{digits}f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """Format a p-value."""
    if math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(estimate: Estimate | Comparison, digits: int = 3) -> str:
    """Format an interval, a dash where there is none."""
    if math.isnan(estimate.low):
        return MISSING
    return f"{number(estimate.low, digits)} to {number(estimate.high, digits)}"


def percent(fraction: float) -> str:
    """Format a label fraction."""
    return f"{100 * fraction:g} %"


def labels_used(tables: Tables, fraction: float) -> str:
    """Write a label fraction with the number of images that runs learnt from, where known."""
    counts = {n for c in tables.cells if c.fraction == fraction for n in c.train_images}
    text = f"{percent(fraction)} of the labels"
    if not counts:
        return text
    low, high = min(counts), max(counts)
    return f"{text} ({f'{low:,} to {high:,}' if low < high else f'{low:,}'} images)"


VERDICTS: Final = {
    "better": "yes",
    "worse": "no: below",
    "no difference shown": "not shown",
    "not testable": "not testable",
}
"""Answers to: does it beat the reference?"""


def headline_table(tables: Tables) -> DisplayTable:
    """Show every arm at the headline fraction, best first, beside the reference."""
    fraction = tables.headline_fraction
    cells = sorted(
        (c for c in tables.cells if c.fraction == fraction), key=lambda c: -c.over_seeds.value
    )
    columns = ["initialisation", "seeds", "test AUC", "95 % over seeds", "95 % over patients"]
    if tables.reference:
        reference = tables.reference
        columns += [f"minus {reference}", "95 % of difference", "p (Holm)", f"beats {reference}?"]
    rows = [tuple(_headline_row(tables, cell)) for cell in cells]
    tested = " p: paired t-test over shared seeds, corrected by Holm." if tables.reference else ""
    if any(p.primary == "bootstrap" for p in tables.pairs if p.fraction == fraction):
        tested += " b: too few shared seeds, paired bootstrap over test patients instead."
    return DisplayTable(
        name="headline",
        caption=(
            f"At {labels_used(tables, fraction)}, {tested_on(tables)}. AUC: mean over seeds"
            f"{_macro(tables)}. Over seeds: t-interval; over patients: bootstrap.{tested}"
        ),
        columns=tuple(columns),
        align=aligned(len(columns)),
        rows=tuple(rows),
        strong=frozenset(i for i, cell in enumerate(cells) if cell.arm == tables.best),
        cards=True,
    )


def _headline_row(tables: Tables, cell: Cell) -> list[str]:
    row = [
        cell.arm,
        str(len(cell.seeds)),
        number(cell.over_seeds.value),
        interval(cell.over_seeds),
        interval(cell.over_patients),
    ]
    if not tables.reference:
        return row
    if cell.arm == tables.reference:
        return [*row, MISSING, MISSING, MISSING, "reference"]
    pair = tables.pair(cell.arm, tables.reference, cell.fraction)
    if pair is None:
        return [*row, MISSING, MISSING, MISSING, MISSING]
    test = pair.test
    ends = MISSING if math.isnan(test.low) else f"{signed(test.low)} to {signed(test.high)}"
    p = p_value(pair.p_holm) + (" b" if pair.primary == "bootstrap" else "")
    return [*row, signed(test.difference), ends, p, VERDICTS[pair.verdict]]


def fraction_table(tables: Tables) -> DisplayTable:
    """Show the AUC of every arm at every label fraction."""
    fractions = sorted({cell.fraction for cell in tables.cells})
    rows = []
    for arm in dict.fromkeys(cell.arm for cell in tables.cells):
        row = [arm]
        for fraction in fractions:
            cell = tables.cell(arm, fraction)
            row.append(MISSING if cell is None else _with_interval(cell))
        rows.append(tuple(row))
    columns = ["initialisation", *map(percent, fractions)]
    return DisplayTable(
        name="label_fractions",
        caption=(
            f"Test AUC, mean over seeds{_macro(tables)}, with the 95 % t-interval over seeds;"
            " b marks a bootstrap interval over test patients where there is one seed."
        ),
        columns=tuple(columns),
        align=aligned(len(columns)),
        rows=tuple(rows),
    )


def _with_interval(cell: Cell) -> str:
    value = number(cell.over_seeds.value)
    if not math.isnan(cell.over_seeds.low):
        return f"{value} ({interval(cell.over_seeds)})"
    if not math.isnan(cell.over_patients.low):
        return f"{value} ({interval(cell.over_patients)} b)"
    return value


def difference_matrix(tables: Tables) -> DisplayTable:
    """Show who differs from whom at the headline fraction: row minus column."""
    fraction = tables.headline_fraction
    cells = sorted(
        (c for c in tables.cells if c.fraction == fraction), key=lambda c: -c.over_seeds.value
    )
    names = [cell.arm for cell in cells]
    rows = []
    for a in names:
        row = [a]
        for b in names:
            pair = tables.pair(a, b, fraction)
            if a == b or pair is None:
                row.append("·")
                continue
            star = {"better": " ▲", "worse": " ▼"}.get(pair.verdict, "")
            row.append(f"{signed(pair.test.difference)}{star}")
        rows.append(tuple(row))
    columns = ["row minus column", *names]
    return DisplayTable(
        name="differences",
        caption=(
            f"Difference in test AUC at {percent(fraction)} of the labels. ▲ better, ▼ worse: p <"
            " 0.05 in the paired t-test over shared seeds (without shared seeds: in the paired"
            " bootstrap over test patients), corrected by Holm within its family"
            " (pre-trained against the reference; all other pairs). No mark: no difference shown,"
            f" which is not the same as equal.{_families(tables)}"
        ),
        columns=tuple(columns),
        align=aligned(len(columns)),
        rows=tuple(rows),
    )


def _families(tables: Tables) -> str:
    """Say how many tests share a correction, and where they are of two kinds."""
    here = [pair.family for pair in tables.pairs if pair.fraction == tables.headline_fraction]
    sizes = ", ".join(f"{here.count(name)} of {name}" for name in dict.fromkeys(here))
    kinds: dict[tuple[float, str], set[str]] = {}
    for pair in tables.pairs:
        kinds.setdefault((pair.fraction, pair.family), set()).add(pair.primary)
    mixed = [percent(f) for f in sorted({f for (f, _), found in kinds.items() if len(found) > 1})]
    both = f"; at {', '.join(mixed)} a family mixes p of the t-test and the bootstrap"
    return f" Tests are corrected per label fraction (here {sizes}){both if mixed else ''}."


def pair_table(tables: Tables) -> DisplayTable:
    """Show every comparison with all its tests."""
    columns = [
        "a",
        "b",
        "labels",
        "seeds",
        f"a {MINUS} b",
        "95 % (t)",
        "p (t)",
        "p (Holm)",
        "95 % (bootstrap)",
        "p (bootstrap)",
        "95 % (DeLong)",
        "p (DeLong)",
        "p (Wilcoxon)",
    ]
    rows = tuple(
        (
            pair.a,
            pair.b,
            percent(pair.fraction),
            str(pair.t.n),
            signed(
                pair.bootstrap.difference if math.isnan(pair.t.difference) else pair.t.difference
            ),
            interval(pair.t),
            p_value(pair.t.p),
            p_value(pair.p_holm),
            interval(pair.bootstrap),
            p_value(pair.bootstrap.p),
            interval(pair.delong),
            p_value(pair.delong.p),
            p_value(pair.wilcoxon.p),
        )
        for pair in tables.pairs
    )
    return DisplayTable(
        name="comparisons",
        caption=(
            "All comparisons. t: paired over shared seeds, asks whether other seeds would agree;"
            " bootstrap and DeLong: paired over test patients, ask whether other patients would"
            " agree (mean over seeds). Only the test that decides is corrected for multiplicity: t,"
            " or the bootstrap where no seeds are shared."
        ),
        columns=tuple(columns),
        align=aligned(len(columns), left=2),
        rows=rows,
    )


def run_table(tables: Tables) -> DisplayTable:
    """Show every run with its own intervals."""
    columns = [
        "initialisation",
        "labels",
        "seed",
        "fold",
        "label",
        "positives",
        "images",
        "AUC",
        "95 % (bootstrap)",
        "95 % (DeLong)",
        "epoch",
    ]
    rows = []
    for row in tables.runs.itertuples():
        rows.append(
            (
                str(row.arm),
                percent(row.fraction),  # type: ignore[arg-type]
                str(row.seed),
                MISSING if row.fold == -1 else str(row.fold),
                str(row.label),
                str(row.positives),
                str(row.images),
                number(row.auc),  # type: ignore[arg-type]
                _ends(row.bootstrap_low, row.bootstrap_high),
                _ends(row.delong_low, row.delong_high),
                str(row.epoch_choice),
            )
        )
    return DisplayTable(
        name="runs",
        caption="Every run. Intervals are over test patients.",
        columns=tuple(columns),
        align=aligned(len(columns)),
        rows=tuple(rows),
    )


def _ends(low: object, high: object) -> str:
    if math.isnan(float(str(low))):
        return MISSING
    return f"{number(float(str(low)))} to {number(float(str(high)))}"


def calibration_table(collection: Collection, tables: Tables) -> DisplayTable:
    """Show how far probabilities can be believed at the headline fraction, mean over runs."""
    fraction = tables.headline_fraction
    rows = []
    for arm in collection.arms:
        runs = [r for r in collection.runs if (r.arm, r.entry.fraction) == (arm.name, fraction)]
        values = []
        for run in runs:
            for label in tables.labels:
                part = run.test[run.test["label"] == label]
                target, score = part["target"].to_numpy(), part["score"].to_numpy()
                line = calibration_line(target, score)
                error = expected_calibration_error(target, score)
                values.append([brier(target, score), error, line.intercept, line.slope])
        if values:
            means = np.mean(values, axis=0)
            rows.append((arm.name, number(means[0]), number(means[1]), *map(signed, means[2:])))
    columns = ["initialisation", "Brier score", "calibration error", "intercept", "slope"]
    return DisplayTable(
        name="calibration",
        caption=(
            f"Calibration at {percent(fraction)} of the labels, mean over seeds{_macro(tables)}."
            " Brier score and expected calibration error (ten bins): smaller is better; intercept"
            " 0 and slope 1 are perfect, a slope below 1 means overconfident."
        ),
        columns=tuple(columns),
        align=aligned(len(columns)),
        rows=tuple(rows),
    )


def tested_on(tables: Tables) -> str:
    """Say how large the test set is."""
    if tables.test_patients is None:
        return f"{tables.test_images:,} test images (patients not known)"
    return f"{tables.test_images:,} test images of {tables.test_patients:,} patients"


def _macro(tables: Tables) -> str:
    count = len(tables.labels)
    return f" and {count} labels" if count > 1 else ""


def aligned(columns: int, left: int = 1) -> tuple[Align, ...]:
    """Names to the left, numbers to the right."""
    return tuple("left" if k < left else "right" for k in range(columns))


# -------------------------------------------------------------------- other formats


def to_markdown(table: DisplayTable) -> str:
    """Write a table as GitHub Markdown, with its caption below."""
    rule = [":--" if align == "left" else "--:" for align in table.align]
    cells = [table.columns, rule, *table.rows]
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
    return "\n".join([*lines, "", table.caption, ""])


_LATEX: Final = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"$<$",
        ">": r"$>$",
        MINUS: r"$-$",
        MISSING: r"--",
        "▲": r"$\blacktriangle$",
        "▼": r"$\blacktriangledown$",
        "·": r"$\cdot$",
    }
)


def to_latex(table: DisplayTable) -> str:
    """Write a table for LaTeX with booktabs (and amssymb for triangles)."""
    form = "".join("l" if align == "left" else "r" for align in table.align)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    body = [line(row) for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{table.caption.translate(_LATEX)}}}",
            rf"\label{{tab:{table.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{form}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_csv(table: pd.DataFrame) -> str:
    """Write numbers in full precision, for other programs."""
    return str(table.to_csv(index=False))
