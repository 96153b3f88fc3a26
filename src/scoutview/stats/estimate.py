"""What every statistic returns: a number with an interval, and how it came about."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    """The estimate; NaN if it cannot be computed, and `note` says why."""
    low: float
    """Lower end of the interval; NaN if there is none."""
    high: float
    """Upper end of the interval; NaN if there is none."""
    n: int
    """What was counted: rows with a target, or seeds."""
    method: str
    """How the interval was made, such as "DeLong, logit, 95 %"."""
    note: str = ""
    """What a reader must know before trusting the number; empty if nothing."""
    dropped: int = 0
    """Rows left out because their target is missing."""

    @property
    def computable(self) -> bool:
        """Whether there is a number at all."""
        return not math.isnan(self.value)


@dataclass(frozen=True)
class Comparison:
    """A paired difference, a minus b, with its interval and its test."""

    difference: float
    """Estimate of a - b; NaN if it cannot be computed."""
    low: float
    """Lower end of the interval of the difference; NaN if there is none."""
    high: float
    """Upper end of the interval of the difference; NaN if there is none."""
    p: float
    """Two-sided p-value, not corrected for multiplicity; NaN if there is none."""
    n: int
    """Pairs: rows, or shared seeds."""
    test: str
    """Name of the test."""
    note: str = ""
    """What a reader must know before trusting the test; empty if nothing."""


def joined(*notes: str) -> str:
    """Write several notes as one; empty ones are left out."""
    return "; ".join(filter(None, notes))


def not_computable(why: str, *, n: int, method: str, dropped: int = 0) -> Estimate:
    """Build the estimate of a number that does not exist."""
    return Estimate(math.nan, math.nan, math.nan, n, method, why, dropped)
