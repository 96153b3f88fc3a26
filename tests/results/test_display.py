import csv
import io
import math

import pandas as pd
import pytest

from scoutview.results.display import (
    MINUS,
    DisplayTable,
    number,
    p_value,
    signed,
    to_csv,
    to_latex,
    to_markdown,
)

TABLE = DisplayTable(
    name="a_b",
    caption="50 % & more_less",
    columns=("arm", "95 %"),
    align=("left", "right"),
    rows=(("A|B", f"{MINUS}0.1"), ("C_D", "< 0.001")),
)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(0.12345), "0.123"),
        (number(-0.5, 1), f"{MINUS}0.5"),
        (number(math.nan), "\N{EN DASH}"),
        (signed(0.0312), "+0.031"),
        (p_value(0.0004), "< 0.001"),
        (p_value(0.0123), "0.012"),
        (p_value(math.nan), "\N{EN DASH}"),
    ],
)
def test_numbers__are_shown_as_people_write_them(shown, text):
    assert shown == text


def test_markdown__escapes_bars_and_aligns_numbers_right():
    lines = to_markdown(TABLE).splitlines()
    assert lines[:3] == ["| arm | 95 % |", "| :-- | --: |", f"| A\\|B | {MINUS}0.1 |"]


def test_latex__escapes_what_latex_reads():
    text = to_latex(TABLE)
    assert r"\caption{50 \% \& more\_less}" in text
    assert r"C\_D & $<$ 0.001 \\" in text
    assert r"A|B & $-$0.1 \\" in text
    assert r"\begin{tabular}{lr}" in text


def test_csv__keeps_full_precision():
    text = to_csv(pd.DataFrame({"arm": ["x"], "auc": [0.1 + 0.2]}))
    (row,) = csv.DictReader(io.StringIO(text))
    assert float(row["auc"]) == 0.1 + 0.2
