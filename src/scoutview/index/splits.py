"""Splits: parts and folds that no patient crosses.

Patients are ordered by pseudonym and shuffled by an addressed generator, so a split depends on the
seed, the key and the patients, not on the order of rows. Cohorts that share a key share splits.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scoutview.base.errors import ConfigError, LeakageError, unknown
from scoutview.base.randomness import SPLITS, generator

PARTS: Final = ("train", "val", "test")


def hold_out(
    table: pd.DataFrame,
    fractions: Mapping[str, float],
    *,
    seed: int,
    stratify: Sequence[str] = (),
) -> pd.Series:
    """Divide the patients at random.

    Args:
        table: Rows of the index with `patient_id`.
        fractions: Share of the patients per part, as {"train": 0.7, "val": 0.1, "test": 0.2}.
        seed: Another seed, another split.
        stratify: Columns whose values are spread evenly over the parts.

    Returns:
        The part of each row, index as `table`.

    Raises:
        ConfigError: The shares do not sum to 1, or there are too few patients for them.
    """
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) < 0:
        raise ConfigError(f"Shares of a split must be >= 0 and sum to 1, got {dict(fractions)}.")
    shares = {part: share for part, share in fractions.items() if share > 0}
    parts = _divide(table, np.array(list(shares.values())), seed, stratify)
    _require_all(parts, list(shares))
    return parts.map(dict(enumerate(shares)))


def k_fold(
    table: pd.DataFrame, folds: int, *, seed: int, stratify: Sequence[str] = ()
) -> pd.Series:
    """Divide the patients into folds of equal size (to one patient).

    Args:
        table: Rows of the index with `patient_id`.
        folds: Number of folds, >= 2.
        seed: Another seed, other folds.
        stratify: Columns whose values are spread evenly over the folds.

    Returns:
        The fold of each row, 0 to folds - 1, index as `table`.

    Raises:
        ConfigError: There are fewer patients than folds.
    """
    if folds < 2:
        raise ConfigError(f"folds must be >= 2, got {folds}.")
    parts = _divide(table, np.full(folds, 1 / folds), seed, stratify)
    _require_all(parts, [f"fold {fold}" for fold in range(folds)])
    return parts


def by_column(table: pd.DataFrame, column: str, parts: Mapping[str, Sequence[str]]) -> pd.Series:
    """Divide by the values of a column; values that no part names stay outside ("").

    Args:
        table: Rows of the index.
        column: For example a site.
        parts: Values per part.

    Raises:
        ConfigError: The column or a value does not exist, or a value stands in two parts.
    """
    if column not in table.columns:
        raise unknown("column", column, map(str, table.columns))
    part_of: dict[str, str] = {}
    values = table[column].astype(str)
    known = set(values)
    for part, wanted in parts.items():
        for value in wanted:
            if value not in known:
                raise unknown(f"value of {column!r}", value, known)
            if value in part_of:
                raise ConfigError(f"{column} == {value!r} stands in two parts; keep one.")
            part_of[value] = part
    return values.map(part_of).fillna("")


def require_apart(
    table: pd.DataFrame, column: str = "split", *, allow_patient_overlap: bool = False
) -> int:
    """Check that no patient stands in two parts.

    Args:
        table: Rows with `patient_id` and the parts; rows without a part ("" or -1) do not count.
        column: "split" or "fold".
        allow_patient_overlap: Accept patients that do.

    Returns:
        The number of patients in more than one part.

    Raises:
        LeakageError: A patient stands in two parts, and that was not accepted.
    """
    placed = table[~table[column].isin(["", -1])]
    parts = placed.groupby("patient_id")[column].nunique()
    crossing = parts[parts > 1].index
    if len(crossing) and not allow_patient_overlap:
        shown = ", ".join(str(patient) for patient in crossing[:3])
        raise LeakageError(
            f"{len(crossing)} of {len(parts)} patients stand in more than one part of the split, as"
            f" {shown}; use a split by patient (holdout or kfold), or set allow_patient_overlap to"
            " accept it and have the results say so."
        )
    return len(crossing)


def _divide(
    table: pd.DataFrame, shares: NDArray[np.float64], seed: int, stratify: Sequence[str]
) -> pd.Series:
    """Give each patient a part: through the strata in turn, always to the part that lacks most."""
    patients = np.unique(table["patient_id"].to_numpy(dtype=str))
    random = generator(seed, SPLITS)
    order = random.permutation(len(patients))
    if stratify:
        strata = _strata(table, patients, stratify)
        order = order[np.argsort(strata[order], kind="stable")]
    # Equal deficits are broken by one shuffled order, so that small strata do not favour part 0.
    tie = random.permutation(len(shares)) * 1e-9
    counts = np.zeros(len(shares))
    part = np.empty(len(patients), dtype=np.int64)
    for done, patient in enumerate(order, 1):
        part[patient] = np.argmax(shares * done - counts + tie)
        counts[part[patient]] += 1
    of_row = np.searchsorted(patients, table["patient_id"].to_numpy(dtype=str))
    return pd.Series(part[of_row], index=table.index)


def _strata(
    table: pd.DataFrame, patients: NDArray[np.str_], columns: Sequence[str]
) -> NDArray[np.int64]:
    """Number each patient's combination of values; of several images the largest value counts."""
    for column in columns:
        if column not in table.columns:
            raise unknown("column", column, map(str, table.columns))
    values = table[list(columns)].apply(_as_codes)
    largest = values.groupby(table["patient_id"].to_numpy(dtype=str)).max().reindex(patients)
    numbers = largest.groupby(list(columns), sort=True).ngroup()
    return np.asarray(numbers, dtype=np.int64)


def _as_codes(values: pd.Series) -> pd.Series:
    codes, _ = pd.factorize(values, sort=True)
    return pd.Series(codes, index=values.index)


def _require_all(parts: pd.Series, names: Sequence[str]) -> None:
    empty = [name for number, name in enumerate(names) if not (parts == number).any()]
    if empty:
        raise ConfigError(
            f"The split leaves no patient for {', '.join(empty)}; use fewer folds, larger shares or"
            " more patients."
        )
