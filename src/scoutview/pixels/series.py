"""From the slices of one DICOM series to a volume: order, distances, tilt, and what is wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scoutview.pixels.findings import problem
from scoutview.pixels.geometry import Direction, normal
from scoutview.pixels.headers import Header, Problem

SAME_DIRECTION: Final = 1e-3
"""Largest difference of direction cosines within a volume."""

SAME_POSITION: Final = 0.01
"""Slices closer than this many millimetres are at one position."""

EVEN: Final = 0.01
"""Gaps may differ by this part of the usual gap, and by 0.02 mm of rounding."""

TILTED: Final = 0.5
"""Degrees between stacking axis and normal from which a tilt is reported."""


@dataclass(frozen=True)
class Assembly:
    """A volume made of single slices."""

    slices: list[Header]
    """In order along the normal."""
    spacing: tuple[float, float, float] | None
    """(z, y, x) in mm; z is the median distance of neighbouring planes along the normal."""
    direction: Direction | None
    gantry_tilt: float
    """Degrees between the normal and the stacking axis; signed as in the header if it names it."""
    gaps: list[float]
    """Millimetres between neighbouring slices along the stacking axis (the table's for CT)."""
    step: tuple[float, float, float] | None
    """Median displacement from slice to slice, LPS mm; sheared with gantry tilt."""
    even_run: tuple[int, int]
    """First slice and end (exclusive) of the longest run of equal gaps."""
    findings: list[Problem]


def assemble(headers: Sequence[Header]) -> Assembly:
    """Order the slices of one series and report what keeps it from being a regular volume.

    Localisers leave first, then slices without position, then all but the largest group of equal
    orientation, matrix, spacing and type, then repeated positions (the lowest instance number
    stays). A series without any position is kept in the order of instance numbers.

    Args:
        headers: Single-slice headers of one series, any order, at least one.

    Returns:
        The usable part; every slice that was left out has a finding.

    Raises:
        ValueError: There is no header.
    """
    if not headers:
        raise ValueError("assemble needs at least one header")
    findings: list[Problem] = []
    kept = _without_localizers(list(headers), findings)
    placed = _with_position(kept, findings)
    if not placed:
        return _unplaced(kept, findings)
    group = _largest_group(placed, findings)
    return _stack(group, findings)


def _report(findings: list[Problem], headers: list[Header], reason: str, detail: str) -> None:
    findings.extend(problem(header.locator, reason, detail) for header in headers)


def _without_localizers(headers: list[Header], findings: list[Problem]) -> list[Header]:
    scouts = [header for header in headers if header.localizer]
    detail = "The slice is a localiser."
    if len(scouts) == len(headers):
        _report(findings, scouts[:1], "localizer", "The whole series is a localiser.")
        return headers
    _report(findings, scouts, "localizer", detail)
    return [header for header in headers if not header.localizer]


def _with_position(headers: list[Header], findings: list[Problem]) -> list[Header]:
    placed = [h for h in headers if h.position is not None and h.direction is not None]
    if placed:
        lost = [h for h in headers if h.position is None or h.direction is None]
        _report(findings, lost, "no_position", "The slice has no position or orientation.")
    return placed


def _number(header: Header) -> tuple[bool, int, str]:
    number = header.instance_number
    return number is None, number or 0, header.image_uid


def _unplaced(headers: list[Header], findings: list[Problem]) -> Assembly:
    groups = _clusters(headers, _same_grid)
    group = sorted(groups[0], key=_number)
    for others in groups[1:]:
        _report(findings, others, "mixed_geometry", "The slice differs in size or type.")
    if len(group) > 1:
        detail = "No slice has a position; instance numbers gave the order."
        _report(findings, group[:1], "no_position", detail)
    first = group[0].spacing
    spacing = (float("nan"), first[-2], first[-1]) if first else None
    return Assembly(group, spacing, group[0].direction, 0.0, [], None, (0, len(group)), findings)


def _largest_group(headers: list[Header], findings: list[Problem]) -> list[Header]:
    """Keep the largest group of equal orientation, then of equal matrix, spacing and type."""
    turned = _clusters(headers, _same_direction)
    for group in turned[1:]:
        _report(findings, group, "mixed_orientation", "The slice has another orientation.")
    equal = _clusters(turned[0], _same_grid)
    for group in equal[1:]:
        detail = "The slice differs in matrix, pixel spacing or type."
        _report(findings, group, "mixed_geometry", detail)
    return equal[0]


def _clusters(headers: list[Header], same: Callable[[Header, Header], bool]) -> list[list[Header]]:
    """Group headers by likeness to the first of each group; the largest group comes first."""
    groups: list[list[Header]] = []
    for header in headers:
        for group in groups:
            if same(group[0], header):
                group.append(header)
                break
        else:
            groups.append([header])
    return sorted(groups, key=len, reverse=True)


def _same_direction(a: Header, b: Header) -> bool:
    if a.direction == b.direction:
        return True
    pairs = zip(a.direction or (), b.direction or (), strict=True)
    return all(abs(x - y) <= SAME_DIRECTION for x, y in pairs)


def _same_grid(a: Header, b: Header) -> bool:
    if (a.shape, a.dtype, a.channels) != (b.shape, b.dtype, b.channels):
        return False
    if a.spacing is None or b.spacing is None:
        return a.spacing is b.spacing
    return all(abs(x - y) <= 1e-3 * x for x, y in zip(a.spacing, b.spacing, strict=True))


def _stack(group: list[Header], findings: list[Problem]) -> Assembly:
    direction = group[0].direction
    assert direction is not None
    along = normal(direction)
    heights = np.array([header.position for header in group]) @ along
    order = sorted(range(len(group)), key=lambda i: (heights[i], _number(group[i])))
    slices = _without_copies([group[i] for i in order], heights[order], findings)
    positions = np.array([header.position for header in slices], dtype=np.float64)
    inside = slices[0].spacing
    if len(slices) == 1:
        spacing = (float("nan"), inside[-2], inside[-1]) if inside else None
        tilt = slices[0].gantry_tilt
        return Assembly(slices, spacing, direction, tilt, [], None, (0, 1), findings)
    steps = np.diff(positions, axis=0)  # (n - 1, 3)
    axis = positions[-1] - positions[0]
    axis /= np.linalg.norm(axis)
    gaps = steps @ axis
    tilt = _tilt(slices, along, axis, findings)
    run = _judge_gaps(slices, gaps, findings)
    distance = float(np.median(steps @ along))
    median = np.median(steps, axis=0)
    return Assembly(
        slices=slices,
        spacing=(distance, inside[-2], inside[-1]) if inside else None,
        direction=direction,
        gantry_tilt=tilt,
        gaps=[float(gap) for gap in gaps],
        step=(float(median[0]), float(median[1]), float(median[2])),
        even_run=run,
        findings=findings,
    )


def _without_copies(
    slices: list[Header], heights: NDArray[np.float64], findings: list[Problem]
) -> list[Header]:
    """Keep the lowest instance number at each position; `slices` are sorted by height."""
    kept: list[Header] = []
    place = -np.inf
    for header, height in zip(slices, heights, strict=True):
        if height - place > SAME_POSITION:
            kept.append(header)
            place = height
        elif _number(header) < _number(kept[-1]):
            _report(findings, [kept[-1]], "duplicate_position", "Another slice lies there too.")
            kept[-1] = header
        else:
            _report(findings, [header], "duplicate_position", "Another slice lies there too.")
    return kept


def _tilt(
    slices: list[Header],
    along: NDArray[np.float64],
    axis: NDArray[np.float64],
    findings: list[Problem],
) -> float:
    """Measure the angle between the normal and the stacking axis; the header gives the sign."""
    measured = float(np.degrees(np.arccos(np.clip(along @ axis, -1.0, 1.0))))
    named = slices[0].gantry_tilt
    if measured < TILTED and abs(named) < TILTED:
        return 0.0
    if abs(abs(named) - measured) < TILTED:
        detail = f"The stack is sheared by {measured:.1f} degrees."
    elif measured < TILTED:
        detail = f"The header names a tilt of {named:.1f} degrees; the positions show none."
        measured = 0.0
    else:
        detail = f"The positions show {measured:.1f} degrees of shear, the header {named:.1f}."
    _report(findings, slices[:1], "gantry_tilt", detail)
    if abs(abs(named) - measured) < TILTED or measured == 0.0:
        return named
    return measured


def _judge_gaps(
    slices: list[Header], gaps: NDArray[np.float64], findings: list[Problem]
) -> tuple[int, int]:
    """Report uneven or missing slices and return the longest run of equal gaps."""
    first, last = _longest_run(gaps)
    usual = float(np.median(gaps[first:last]))
    odd = [i for i, gap in enumerate(gaps) if not _equal(float(gap), usual)]
    holes = [i for i in odd if _is_hole(float(gaps[i]) / usual) and 4 * len(odd) <= len(gaps)]
    for i in holes:
        detail = f"{round(gaps[i] / usual) - 1} slices are missing after this one."
        _report(findings, [slices[i]], "missing_slice", detail)
    if len(odd) > len(holes):
        named = ", ".join(f"{gap:.2f}" for gap in sorted({round(float(g), 2) for g in gaps})[:8])
        _report(findings, slices[:1], "uneven_spacing", f"Gaps between slices differ: {named} mm.")
    return first, last + 1


def _is_hole(times: float) -> bool:
    """Tell whether a gap is a whole multiple of the usual one."""
    return times > 1.5 and abs(times - round(times)) < 0.05


def _equal(gap: float, usual: float) -> bool:
    return abs(gap - usual) <= max(0.02, EVEN * usual)


def _longest_run(gaps: NDArray[np.float64]) -> tuple[int, int]:
    """Return start and end (exclusive) of the longest run of gaps equal to its first."""
    best, start = (0, 1), 0
    for i in range(1, len(gaps) + 1):
        if i == len(gaps) or not _equal(float(gaps[i]), float(gaps[start])):
            if i - start > best[1] - best[0]:
                best = (start, i)
            start = i
    return best
