"""The result in words, good or bad."""

import math

from scoutview.results.collect import Collection
from scoutview.results.display import (
    either,
    interval,
    number,
    p_value,
    percent,
    verdict_of,
)
from scoutview.results.tables import Pair, Tables


def headline(tables: Tables) -> str:
    """Say in one sentence what came out for the best arm."""
    fraction = tables.headline_fraction
    cell = tables.cell(tables.best, fraction)
    if cell is None:
        return f"Nothing was run at {percent(fraction)} of the labels."
    text = (
        f"With {percent(fraction)} of the labels, {cell.arm} reaches a test AUC of"
        f" {number(cell.over_seeds.value)}"
    )
    if not math.isnan(cell.over_seeds.low):
        text += f" (95 % interval over {len(cell.seeds)} seeds {interval(cell.over_seeds)})"
    elif not math.isnan(cell.over_patients.low):
        text += f" (95 % interval over test patients {interval(cell.over_patients)})"
    pair, sign = either(tables, cell.arm, tables.reference, fraction)
    if pair is None:
        return text + "."
    return text + "; " + _against(pair, sign, tables) + "."


def _against(pair: Pair, sign: int, tables: Tables) -> str:
    reference = tables.reference
    difference = (
        sign * pair.bootstrap.difference if math.isnan(pair.p_holm) else (sign * pair.t.difference)
    )
    size = number(abs(difference))
    side = "above" if difference >= 0 else "below"
    if math.isnan(pair.p_holm):
        return (
            f"that is {size} {side} {reference}, which too few seeds leave untested (bootstrap over"
            f" test patients: p = {p_value(pair.bootstrap.p).lstrip('= ')})"
        )
    low, high = sorted((sign * pair.t.low, sign * pair.t.high))
    tested = (
        f"{size} {side} {reference} (95 % {number(low)} to {number(high)}, {_p(pair.p_holm)},"
        " paired t-test, Holm)"
    )
    verdict = verdict_of(pair, sign)
    if verdict == "no difference shown":
        return f"it does not beat {reference}: the difference of {tested} is not shown to be real"
    return f"that is {tested}" if verdict == "better" else f"it is worse than {reference}: {tested}"


def _p(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def findings(collection: Collection, tables: Tables) -> list[str]:
    """Say for every other pre-trained arm, and for disagreeing tests, what a reader must know."""
    fraction = tables.headline_fraction
    said = []
    for arm in collection.arms:
        pair, sign = either(tables, arm.name, tables.reference, fraction)
        cell = tables.cell(arm.name, fraction)
        if not arm.pretrained or pair is None or cell is None:
            continue
        if arm.name != tables.best:
            said.append(
                f"{arm.name}: {number(cell.over_seeds.value)}; {_against(pair, sign, tables)}."
            )
        if verdict_of(pair, sign) == "better" and pair.bootstrap.p >= pair.alpha:
            said.append(
                f"{arm.name} beats {tables.reference} over seeds, but the test set is too small to"
                f" be sure for other patients (bootstrap p = {p_value(pair.bootstrap.p)})."
            )
    said += _supervised(collection, tables)
    return said


def _supervised(collection: Collection, tables: Tables) -> list[str]:
    """Compare the best arm with training on the labels alone."""
    said = []
    for arm in collection.arms:
        if arm.initialisation.kind not in ("supervised", "raw_pixels") or arm.name == tables.best:
            continue
        pair, sign = either(tables, tables.best, arm.name, tables.headline_fraction)
        if pair is None or math.isnan(pair.p_holm):
            continue
        words = {
            "better": "is better than",
            "worse": "is worse than",
            "no difference shown": "shows no difference from",
        }[verdict_of(pair, sign)]
        low, high = sorted((sign * pair.t.low, sign * pair.t.high))
        said.append(
            f"{tables.best} {words} {arm.name}: difference {number(sign * pair.t.difference)}"
            f" (95 % {number(low)} to {number(high)}, {_p(pair.p_holm)})."
        )
    return said
