"""Patients and pixels on both sides of a split: found, then refused, dropped or allowed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pandas as pd

from scoutview.base.errors import DataError, LeakageError

OnLeak = Literal["refuse", "drop", "allow"]
"""What happens to images that have a copy in another part of the split."""

PARTS: Final = ("train", "val", "test")
"""From where a copy is dropped first."""


@dataclass(frozen=True)
class Resolved:
    """A split after its copies were dealt with."""

    drop: frozenset[str] = frozenset()
    """Images to leave out."""
    dropped: list[dict[str, Any]] = field(default_factory=list)
    """What was dropped: {"split", "of_split", "kind", "image_ids"}, as study.json names it."""
    notes: tuple[str, ...] = ()
    """Sentences for the reader of the results."""


def check_patients(parts: pd.DataFrame) -> None:
    """Refuse a split that a patient crosses.

    Args:
        parts: Columns patient_id and part.

    Raises:
        LeakageError: A patient is in two parts.
    """
    count = parts.groupby("patient_id", observed=True)["part"].nunique()
    crossing = int((count > 1).sum())
    if crossing:
        raise LeakageError(
            f"{crossing} patients are in more than one part of the split; split again by patient."
        )


def check_parts(parts: pd.Series, needed: Sequence[str] = PARTS, *, folds: int = 0) -> None:
    """Refuse a split that lacks a part.

    Args:
        parts: Part of each image.
        needed: Parts that must have an image.
        folds: Number of folds that could be tested on instead, which the message then says.

    Raises:
        DataError: A part has no labelled image.
    """
    have = parts.value_counts()
    lacking = [part for part in needed if not have.get(part, 0)]
    if lacking:
        raise DataError(
            f"No labelled image is in {', '.join(lacking)}; transfer learns on train, chooses on"
            f" val and reports test: make a split with all three{_or_folds(folds)}."
        )


def _or_folds(folds: int) -> str:
    if folds < 3:  # one to test on, one to choose on, one to learn from
        return ""
    numbers = ",".join(map(str, range(folds)))
    return f", or test on each of the cohort's {folds} folds with --set folds=[{numbers}]"


def resolve_copies(parts: pd.Series, pairs: pd.DataFrame, on_leak: OnLeak) -> Resolved:
    """Deal with images that have a copy in another part.

    Args:
        parts: Part of each image, index image_id.
        pairs: Columns image_id_a, image_id_b, kind ("exact" or "near"), as the store finds them.
        on_leak: "refuse" raises; "drop" leaves the copy out of train, or out of val where the other
            is in test, so test stays whole; "allow" keeps all and says so.

    Returns:
        What to leave out, and what to tell.

    Raises:
        LeakageError: There are copies and `on_leak` is "refuse".
    """
    crossing = _crossing(parts, pairs)
    if crossing.empty:
        return Resolved()
    told = _told(crossing)
    if on_leak == "refuse":
        raise LeakageError(
            f"Copies of images cross the split: {told}. Set on_leak to 'drop' to leave the copies"
            " out of train (and of val where test has them), or to 'allow' to keep them; the"
            " results page will say which."
        )
    if on_leak == "allow":
        return Resolved(notes=(f"Copies of images cross the split and were allowed: {told}.",))
    dropped = [
        {
            "split": split,
            "of_split": of_split,
            "kind": kind,
            "image_ids": sorted(set(group["drop"])),
        }
        for (split, of_split, kind), group in crossing.groupby(["split", "of_split", "kind"])
    ]
    note = f"Copies of images crossed the split and were dropped: {told}."
    return Resolved(frozenset(crossing["drop"]), dropped, (note,))


def told_crossing(parts: pd.Series, pairs: pd.DataFrame) -> str:
    """Say which images have a copy in another part, as `resolve_copies` does; "" if none has.

    Args:
        parts: Part of each image, index image_id.
        pairs: Columns image_id_a, image_id_b, kind.
    """
    return _told(_crossing(parts, pairs))


def _crossing(parts: pd.Series, pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per image to drop and per kind: drop, split, of_split, kind."""
    rank = {part: i for i, part in enumerate(PARTS)}
    rows = []
    for a, b, kind in pairs[["image_id_a", "image_id_b", "kind"]].itertuples(index=False):
        part_a, part_b = parts.get(a), parts.get(b)
        if part_a not in rank or part_b not in rank or part_a == part_b:
            continue
        first, second = (a, b) if rank[part_a] < rank[part_b] else (b, a)
        rows.append((first, parts[first], parts[second], kind))
    table = pd.DataFrame(rows, columns=["drop", "split", "of_split", "kind"])
    return table.drop_duplicates(ignore_index=True)


def _told(crossing: pd.DataFrame) -> str:
    keys = list(crossing[["split", "of_split", "kind"]].itertuples(index=False, name=None))
    parts = []
    for (split, of_split, kind), count in sorted(Counter(keys).items()):
        who = f"{count} images of {split} are" if count > 1 else f"1 image of {split} is"
        what = f"{kind} copies" if count > 1 else f"{'an' if kind == 'exact' else 'a'} {kind} copy"
        parts.append(f"{who} {what} of {of_split} images")
    return "; ".join(parts)


def check_pretraining(
    test: Sequence[str], seen: Sequence[str], *, allow: bool, by: str
) -> tuple[str, ...]:
    """Refuse test images that the backbone was pre-trained on.

    Args:
        test: Identity of every test image: an image id under one pseudonym key, or a content hash.
        seen: The same of every pre-training image.
        allow: Go on and say so.
        by: How images were compared, for the message.

    Returns:
        Notes for the reader of the results.

    Raises:
        LeakageError: There are such images and they are not allowed.
    """
    both = set(test) & set(seen)
    if not both:
        return ()
    told = f"{len(both)} of {len(set(test))} test images were in the pre-training set ({by})"
    if not allow:
        raise LeakageError(
            f"{told}. Pre-train without them (select the training part), or set on_leak to 'allow';"
            " the results page will say so."
        )
    return (f"{told}; this was allowed.",)
