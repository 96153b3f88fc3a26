"""One colour, marker and line per arm, the same in every figure; readable without colour vision."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from scoutview.results.collect import Arm


@dataclass(frozen=True)
class Mark:
    """How an arm is drawn."""

    colour: str
    marker: str
    line: str


_FIXED: Final = {
    "random": Mark("#6b6b6b", "x", "--"),
    "supervised": Mark("#111111", "s", "-."),
    "raw_pixels": Mark("#8c6d31", "+", ":"),
    "imagenet": Mark("#2a9fd6", "d", "-"),
    "simclr": Mark("#0072b2", "o", "-"),
    "moco_v2": Mark("#d55e00", "^", "-"),
    "byol": Mark("#009e73", "D", "-"),
    "barlow_twins": Mark("#b5548f", "v", "-"),
    "swav": Mark("#c88a00", "P", "-"),
}
"""Colours after Okabe & Ito, Color Universal Design, 2008; two darkened for white paper."""

_FURTHER: Final = (
    Mark("#332288", "<", "-"),
    Mark("#882255", ">", "-"),
    Mark("#117733", "h", "-"),
    Mark("#44aa99", "*", "-"),
    Mark("#aa4499", "p", "-"),
    Mark("#661100", "8", "-"),
)
"""For everything without a colour of its own, in order of appearance. Source: Tol, 2021."""

_LINES: Final = ("-", "--", ":")
"""Lines of the first, second and third arm that share a further colour."""

SAME: Final = "#0072b2"
OTHER: Final = "#d55e00"
"""Right and wrong, always together with a sign."""


def marks(arms: Sequence[Arm]) -> dict[str, Mark]:
    """Give every arm its mark; a method has the same one in every study."""
    chosen: dict[str, Mark] = {}
    further = 0
    for arm in arms:
        key = arm.initialisation.method or arm.initialisation.kind
        mark = _FIXED.get(key)
        if mark is None or mark in chosen.values():
            again, place = divmod(further, len(_FURTHER))
            mark = replace(_FURTHER[place], line=_LINES[again % len(_LINES)])
            further += 1
        chosen[arm.name] = mark
    return chosen


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Give every class of a label a colour, for maps of embeddings."""
    colours = ["#0072b2", "#d55e00", "#009e73", "#b5548f", "#c88a00", "#2a9fd6", "#332288"]
    return {name: colours[i % len(colours)] for i, name in enumerate(classes)}
