"""What a transfer says before it trains: shares too small to take, labels that cannot be judged."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from scoutview.api.transfer_runs import Cell, Images
from scoutview.tasks.evaluation import Rows

_MISSED: Final = {
    "train": "nothing can be learnt about it",
    "val": "no epoch or penalty can be chosen by it",
    "test": "its AUC does not exist",
}
"""What a part with one class of a label is no good for."""


def told_shares(
    images: Images, blocks: Mapping[int, Mapping[str, Rows]], cells: Sequence[Cell]
) -> list[str]:
    """Say where a label fraction is less than one patient, so that more is used than was asked for.

    Args:
        images: All labelled images.
        blocks: Positions of train, val and test of every fold.
        cells: The runs.
    """
    patients = images.table["patient_id"].to_numpy()
    one = "image" if (images.table["patient_id"] == images.table["image_id"]).all() else "patient"
    told = []
    for fraction, fold in dict.fromkeys((cell.fraction, cell.fold) for cell in cells):
        count = len(np.unique(patients[blocks[fold]["train"]]))
        if fraction * count >= 0.5:  # else rounding would take nobody
            continue
        sizes = {len(c.train) for c in cells if (c.fraction, c.fold) == (fraction, fold)}
        used = "" if one == "image" else f" with {_span(sizes)}"
        told.append(
            f"{100 * fraction:g} % of the labels would be less than one of the {count}"
            f" {one}s to learn from; each run learns from one {one}{used}, which is"
            f" {100 / count:.2g} %."
        )
    return list(dict.fromkeys(told))


def _span(sizes: set[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low} to {high} images" if low < high else f"{low} image{'s' if low > 1 else ''}"


def told_classes(images: Images, blocks: Mapping[int, Mapping[str, Rows]]) -> list[str]:
    """Say which labels have no positive, or no negative, image in a part."""
    told = []
    for fold, block in blocks.items():
        for part, rows in block.items():
            where = part if fold < 0 else f"{part} of fold {fold}"
            found = images.targets.of(rows)
            for label, values in zip(found.columns, found.values.T, strict=True):
                positive, negative = int((values == 1).sum()), int((values == 0).sum())
                if positive and negative:
                    continue
                told.append(
                    f"Label {label!r}: {where} has {positive} positive and {negative} negative"
                    f" images, so {_MISSED[part]}; split again, or leave the label out."
                )
    return told
