"""The result in words, good or bad."""

import math

from scoutview.results.collect import Collection
from scoutview.results.display import (
    interval,
    labels_used,
    number,
    p_value,
    percent,
)
from scoutview.results.pairs import Pair
from scoutview.results.tables import Tables


def headline(tables: Tables) -> str:
    """Say in one sentence what came out for the best arm."""
    fraction = tables.headline_fraction
    cell = tables.cell(tables.best, fraction)
    if cell is None:
        return f"Nothing was run at {percent(fraction)} of the labels."
    text = (
        f"With {labels_used(tables, fraction)}, {cell.arm} reaches a test AUC of"
        f" {number(cell.over_seeds.value)}"
    )
    if not math.isnan(cell.over_seeds.low):
        text += f" (95 % interval over {len(cell.seeds)} seeds {interval(cell.over_seeds)})"
    elif not math.isnan(cell.over_patients.low):
        text += f" (95 % interval over test patients {interval(cell.over_patients)})"
    pair = tables.pair(cell.arm, tables.reference, fraction)
    if pair is None:
        return text + "."
    if pair.verdict in ("better", "worse"):
        return f"{text}: {_size(pair)} {tables.reference} ({_evidence(pair)})."
    return f"{text}; {_words(pair)} {tables.reference}: {_size(pair)} it ({_evidence(pair)})."


def _words(pair: Pair) -> str:
    return {
        "better": "it beats",
        "worse": "it is below",
        "no difference shown": "it is not shown to beat",
        "not testable": "it cannot be tested against",
    }[pair.verdict]


def _size(pair: Pair) -> str:
    difference = pair.test.difference
    return f"{number(abs(difference))} {'above' if difference >= 0 else 'below'}"


def _evidence(pair: Pair) -> str:
    name = {
        "t": f"paired t-test over {pair.t.n} seeds, Holm",
        "bootstrap": "paired bootstrap over test patients, Holm",
    }[pair.primary]
    if math.isnan(pair.p_holm):
        return "no test is possible"
    return f"95 % {interval(pair.test)}, {_p(pair.p_holm)}, {name}"


def _p(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def findings(collection: Collection, tables: Tables) -> list[str]:
    """Say for every other pre-trained arm, and for disagreeing tests, what a reader must know."""
    fraction = tables.headline_fraction
    said = []
    for arm in collection.arms:
        pair = tables.pair(arm.name, tables.reference, fraction)
        cell = tables.cell(arm.name, fraction)
        if not arm.pretrained or pair is None or cell is None:
            continue
        if arm.name != tables.best:
            words = _words(pair).replace("it ", "", 1)
            said.append(
                f"{arm.name} {words} {pair.b}: {number(cell.over_seeds.value)} is {_size(pair)} it"
                f" ({_evidence(pair)})."
            )
        if pair.verdict == "better" and pair.primary == "t" and pair.bootstrap.p >= pair.alpha:
            said.append(
                f"{arm.name} beats {pair.b} over seeds, but the test set is too small to be sure"
                f" for other patients (paired bootstrap {_p(pair.bootstrap.p)})."
            )
    said += _supervised(collection, tables)
    return said


def _supervised(collection: Collection, tables: Tables) -> list[str]:
    """Compare the best arm with training on the labels alone."""
    said = []
    for arm in collection.arms:
        if arm.initialisation.kind not in ("supervised", "raw_pixels") or arm.name == tables.best:
            continue
        pair = tables.pair(tables.best, arm.name, tables.headline_fraction)
        if pair is None or math.isnan(pair.p_holm):
            continue
        words = {
            "better": "is better than",
            "worse": "is worse than",
            "no difference shown": "shows no difference from",
        }[pair.verdict]
        said.append(f"{tables.best} {words} {arm.name}: {_size(pair)} it ({_evidence(pair)}).")
    return said
