import numpy as np
import pandas as pd
import pytest

from scoutview.base.errors import ConfigError
from scoutview.index.select import mask, where


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "modality": ["CT", "MR", "CT", "CR"],
            "n_slices": [30, 20, 10, 1],
            "spacing_y": [0.5, np.nan, 1.0, 0.2],
            "localizer": [False, False, True, False],
            "Lung Opacity": [1.0, 0.0, -1.0, np.nan],
        }
    )


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("modality == 'CT' and n_slices >= 20", [0]),
        ("modality in ['CT', 'MR'] and not localizer", [0, 1]),
        ("modality not in ('CT',)", [1, 3]),
        ("5 < n_slices <= 20", [1, 2]),
        ("n_slices * spacing_y >= 10", [0, 2]),
        ("spacing_y != spacing_y", [1]),
        ("`Lung Opacity` == -1 or n_slices % 30 == 0", [0, 2]),
        ("localizer", [2]),
        ("localizer == False", [0, 1, 3]),
        ("True", [0, 1, 2, 3]),
        ("not (modality == 'CT' or modality == 'MR')", [3]),
    ],
)
def test_where__keeps_the_rows_that_fit(table, expression, rows):
    assert list(where(table, expression).index) == rows


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "modality.str.len() > 1",
        "[x for x in (1,)]",
        "(lambda: True)()",
        "modality[0] == 'C'",
        "f'{modality}' == 'CT'",
        "n_slices ** 99999999 > 1",
        "(y := True)",
        "@modality",
        "",
        "modality ==",
        "n_slices",
        "modality > 3",
        "modality * 999999999 == 'CT'",
        "n_slices is None",
        "n_slices and localizer",
        "'CT' in modality",
        "(" * 3000 + "True" + ")" * 3000,
    ],
)
def test_mask__refuses_everything_else(table, expression):
    with pytest.raises(ConfigError):
        mask(table, expression)


def test_mask__names_the_nearest_column(table):
    with pytest.raises(ConfigError, match="Did you mean 'modality'"):
        mask(table, "modalty == 'CT'")


def test_mask__is_literal_about_missing_values(table):
    assert not mask(table, "`Lung Opacity` >= 0")[3]
