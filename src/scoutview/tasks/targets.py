"""From a cohort's label columns to what losses and statistics need."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scoutview.base.errors import DataError, unknown
from scoutview.contract import LabelSpec
from scoutview.index.labels import Label, Policy, target_names
from scoutview.index.labels import targets as label_targets


@dataclass(frozen=True)
class Targets:
    """Targets of N images."""

    columns: tuple[str, ...]
    """Name of each output, (L,): the labels, or "label=class" for the classes of one label."""
    values: NDArray[np.float64]
    """1, 0 or NaN (missing), (N, L); classes are one-hot, or NaN in the whole row."""
    exclusive: bool
    """Whether the outputs are the classes of one label."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Images with at least one known target, (N,)."""
        return np.asarray(~np.isnan(self.values).all(axis=1))

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class of each image, (N,), -1 where missing; only of exclusive targets."""
        assert self.exclusive
        return np.where(self.known, np.nan_to_num(self.values).argmax(axis=1), -1)

    @property
    def spec(self) -> LabelSpec:
        """What a batch of these targets means."""
        if self.exclusive:
            return LabelSpec("multiclass", self.columns)
        return LabelSpec("binary" if len(self.columns) == 1 else "multilabel", self.columns)

    def of(self, rows: NDArray[np.int64]) -> "Targets":
        """Select images."""
        return Targets(self.columns, self.values[rows], self.exclusive)

    def for_loss(self, ignore: int) -> NDArray[np.int64] | NDArray[np.float32]:
        """Give what a batch carries.

        Args:
            ignore: Value of a missing target.

        Returns:
            Classes, (N,) int64, or labels, (N, L) float32.
        """
        if self.exclusive:
            return np.where(self.known, self.classes, ignore)
        return np.where(np.isnan(self.values), ignore, self.values).astype(np.float32)


def read_targets(
    table: pd.DataFrame,
    labels: Sequence[Label],
    names: Sequence[str] = (),
    *,
    uncertain: Policy = "ignore",
) -> Targets:
    """Collect the targets of a cohort.

    Args:
        table: The cohort's index, N rows.
        labels: The cohort's labels.
        names: Labels to use; all if empty.
        uncertain: What an uncertain label counts as: "ones", "zeros" or "ignore" (missing).

    Returns:
        The targets in the order of the table.

    Raises:
        ConfigError: A name is not a label of the cohort.
        DataError: The cohort has no labels, or classes and yes-no labels are mixed.
    """
    by_name = {label.name: label for label in labels}
    if not by_name:
        raise DataError("The cohort has no labels; index it with a table of labels first.")
    for name in names:
        if name not in by_name:
            raise unknown("label", name, by_name)
    chosen = [by_name[name] for name in names or by_name]
    several = [label.name for label in chosen if label.kind == "multiclass"]
    if several and len(chosen) > 1:
        raise DataError(
            "One classifier predicts yes-no labels, or the classes of one label; got"
            f" {len(chosen)} labels, of which {', '.join(several)} have classes. Choose the labels."
        )
    values = label_targets(table, chosen, uncertain)
    return Targets(tuple(target_names(chosen)), values, exclusive=bool(several))
