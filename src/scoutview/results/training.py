"""How pre-training went: curves, when each run had converged, and how much faster than another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from scoutview.results.collect import Collection
from scoutview.results.display import MISSING, DisplayTable, aligned, number
from scoutview.results.run import RunFolder
from scoutview.stats.convergence import convergence_epoch, speed_up

PROBES: Final = {"knn_auc": "kNN AUC of the probe", "linear_auc": "AUC of the linear probe"}
"""Measures that say how good the backbone is, in order of preference."""

FEWEST: Final = 3
"""Measurements below which a convergence epoch would say only when somebody looked."""

MEASURES: Final = {
    **PROBES,
    "effective_rank": "effective rank of features",
    "feature_std": "standard deviation of features",
    "loss": "training loss",
}
"""Columns of the metrics that are drawn, with their words."""


@dataclass(frozen=True)
class Convergence:
    """When a run had reached 98 % of its best."""

    arm: str
    best: float
    epoch: int
    """Counted from 1."""
    epochs: int
    """Epochs that the run had."""
    samples_seen: int
    """At that epoch."""
    time_s: float
    """At that epoch."""
    measurements: int
    """Epochs at which the run was probed."""
    interval: int
    """Most epochs between two probes: the epoch is known no better than that."""

    @property
    def known(self) -> bool:
        """Whether there are measurements enough to speak of convergence."""
        return self.measurements >= FEWEST


def pretraining_runs(collection: Collection) -> dict[str, RunFolder]:
    """Find the pre-training run of every arm that has one."""
    found: dict[str, RunFolder] = {}
    for study in collection.studies:
        names = {known.name for known in study.content.initialisations}
        for arm in collection.arms:
            if arm.initialisation.name in names and arm.name not in found:
                run = study.pretraining(arm.initialisation.name)
                if run is not None:
                    found[arm.name] = run
    return found


def convergence(curves: Mapping[str, pd.DataFrame]) -> tuple[str, list[Convergence]]:
    """Find the convergence point of every run that was probed while training.

    Args:
        curves: Metrics by arm, see `RunFolder.metrics`.

    Returns:
        The measure (a key of `PROBES`, "" if no run has one) and one entry per run.
    """
    for key in PROBES:
        found = [
            _converged(arm, metrics, key)
            for arm, metrics in curves.items()
            if key in metrics and metrics[key].notna().any()
        ]
        if found:
            return key, found
    return "", []


def _converged(arm: str, metrics: pd.DataFrame, key: str) -> Convergence:
    known = metrics[metrics[key].notna()]
    # A line says how many epochs are done; whatever is measured within an epoch counts as its end.
    epochs = np.ceil(known["epoch"].to_numpy())
    epoch = convergence_epoch(epochs, known[key].to_numpy())
    reached = known[key] >= 0.98 * known[key].max()
    there = known[(epochs == epoch) & reached].iloc[0]
    return Convergence(
        arm=arm,
        best=float(known[key].max()),
        epoch=epoch,
        epochs=int(np.ceil(metrics["epoch"].max())),
        samples_seen=int(there["samples_seen"]),
        time_s=float(there["time_s"]),
        measurements=len(np.unique(epochs)),
        interval=int(np.diff(np.unique(epochs), prepend=0).max()),
    )


def convergence_table(key: str, found: list[Convergence]) -> DisplayTable:
    """Show convergence, with the slowest run as the reference of the speed-up."""
    slowest = max((c for c in found if c.known), key=lambda c: c.epoch, default=None)
    rows = [_row(c, slowest) for c in sorted(found, key=lambda c: (not c.known, c.epoch))]
    faster = "" if slowest is None else f" Speed-up: epochs of {slowest.arm} over those of the run."
    few = (
        f" Fewer than {FEWEST} measurements do not tell when a run had converged."
        if not all(c.known for c in found)
        else ""
    )
    return DisplayTable(
        name="convergence",
        caption=(
            f"Convergence: earliest epoch whose {PROBES[key]} reaches 98 % of the run's own best."
            " It is known no better than the distance between two measurements, and so is the"
            f" speed-up.{faster}{few} A run that stays low converges early, so read it beside the"
            " best value."
        ),
        columns=("initialisation", "best", "epoch", "measured", "images seen", "time", "speed-up"),
        align=aligned(7),
        rows=tuple(rows),
    )


def _row(c: Convergence, slowest: Convergence | None) -> tuple[str, ...]:
    every = f"{c.measurements}, every {c.interval} epochs"
    measured = every.replace("every 1 epochs", "every epoch")
    if not c.known:
        few = f"not shown: {c.measurements} measured"
        return (c.arm, number(c.best), few, measured, MISSING, MISSING, MISSING)
    faster = MISSING
    if slowest is not None and c is not slowest:
        faster = f"{speed_up(c.epoch, slowest.epoch):.1f}-fold"
    epoch, seen = f"{c.epoch} of {c.epochs}", f"{c.samples_seen:,}"
    return (c.arm, number(c.best), epoch, measured, seen, duration(c.time_s), faster)


def duration(seconds: float) -> str:
    """Write a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
