"""The collapse monitor: is the backbone still learning something that tells images apart?

It reads four numbers that training logs anyway and raises alarms by name, each with a remedy.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from scoutview.contract import Objective
from scoutview.data.batch import Batch
from scoutview.nn.features import alignment, effective_rank, feature_std, uniformity
from scoutview.nn.queues import Queue

logger = logging.getLogger(__name__)

HEALTH_IMAGES: Final = 128
"""Images per process that one look at the features uses at most."""
STD_FLOOR: Final = 0.1
"""Below this, a standard deviation counts as collapsed; 1 fills all directions of the sphere."""
PROJECTION_SHARE: Final = 0.6
"""Projections whose spread falls below this share of the best so far, and below
`PROJECTION_FLOOR`, count as collapsing. Healthy runs keep more than 0.9."""
PROJECTION_FLOOR: Final = 0.5
RANK_SHARE: Final = 0.35
"""An effective rank below this share of the best so far counts as falling."""
PINNED_SHARE: Final = 0.01
"""A loss within this share of its chance level counts as pinned."""
PATIENCE: Final = 3
"""Checks in a row that must agree before an alarm is raised."""
CODES_FLOOR: Final = 4.0
"""Fewer codes than this in a batch count as collapsed, counted by the exponential of their entropy.
DINO on the demo radiographs, batches of 32: 2 without centring, more than 500 with it."""
ONE_CLUSTER: Final = 0.9
"""Share of all images in one cluster above which a clustering counts as collapsed."""
GRACE_STEPS: Final = 60
"""Steps at the start in which a loss may stand at chance level."""
SMALL_BATCH: Final = 16
"""Fewer images at once than this carry too little for negatives, codes and batch statistics."""

_REPEATED: Final = ("collapsed_features", "rank_falling", "loss_pinned", "one_cluster", "few_codes")
"""Alarms that are raised when `PATIENCE` checks agree."""

_HEADS: Final = {"projector": "projection_std", "predictor": "prediction_std"}
"""Heads in the order in which features pass them, and what their spread is called."""

REMEDIES: Final = {
    "collapsed_features": "all images get nearly the same features; check the stop-gradient and"
    " the teacher, lower the learning rate, or use a larger batch",
    "rank_falling": "features use fewer and fewer directions; lower the learning rate, lengthen"
    " the warm-up, or use a larger batch",
    "loss_pinned": "the loss stands at the level of guessing; lower the learning rate, use fewer"
    " prototypes, a larger batch or a queue, or a smaller temperature or epsilon",
    "few_codes": "nearly all images get the same few codes; centre the outputs of the teacher"
    " (centre_momentum below 1), or raise its temperature",
    "one_cluster": "nearly all images lie in one cluster, so their labels say nothing; lower the"
    " learning rate or use fewer clusters; where the method has them, set empty_clusters to split,"
    " or, in online clusters, raise min_cluster and lower refresh_every",
    "batch_too_small": "too few images at once for negatives, codes or batch statistics; raise the"
    " batch size, lower accumulate, or choose a method with a queue",
    "queue_longer_than_data": "the queue holds several copies of every image, so images repel"
    " themselves; make the queue shorter than the training set",
}
"""Every alarm's name with what it means and what to do."""


@dataclass(frozen=True)
class Alarm:
    """Something that makes the result worthless if it goes on."""

    name: str
    """A key of `REMEDIES`."""
    step: int
    value: float
    """The number that raised it."""

    def __str__(self) -> str:
        return f"{self.name} at step {self.step} ({self.value:.4g}): {REMEDIES[self.name]}."


class CollapseMonitor:
    """Raises each alarm once.

    Args:
        batch_size: Images that one forward pass sees, over all processes when their negatives or
            codes are shared.
        dataset_size: Images in the training set.
        queue_size: Entries of the objective's queue, 0 for none.
    """

    def __init__(self, *, batch_size: int, dataset_size: int, queue_size: int = 0) -> None:
        self._sizes = (batch_size, dataset_size, queue_size)
        self._counts = dict.fromkeys(_REPEATED, 0)
        self._best = {"rank": 0.0, "projection": 0.0}
        self._raised: list[str] = []

    @property
    def raised(self) -> tuple[str, ...]:
        """Names of all alarms so far, in the order in which they were raised."""
        return tuple(self._raised)

    def start(self) -> list[Alarm]:
        """Check the sizes before the first step."""
        batch_size, dataset_size, queue_size = self._sizes
        found = []
        if batch_size < SMALL_BATCH:
            found.append(self._raise("batch_too_small", 0, batch_size))
        if queue_size > dataset_size:
            found.append(self._raise("queue_longer_than_data", 0, queue_size))
        return [alarm for alarm in found if alarm is not None]

    def check(self, step: int, metrics: Mapping[str, float]) -> list[Alarm]:
        """Look at one line of metrics.

        Args:
            step: Optimiser steps done.
            metrics: `loss`, and where they were measured `feature_std`, `projection_std` and
                `effective_rank`; `chance_loss` (ln K), `codes_used` and `largest_cluster` where
                the objective logs them.

        Returns:
            Alarms that are new.
        """
        rank = metrics.get("effective_rank", math.nan)
        std = metrics.get("feature_std", math.nan)
        projection = metrics.get("projection_std", math.nan)
        codes = metrics.get("codes_used", math.nan)
        largest = metrics.get("largest_cluster", math.nan)
        # Without a stop-gradient the projections shrink while the features still look alive. A loss
        # with a chance level gains nothing by that; clusters drawn anew move projections as well.
        least = min(PROJECTION_FLOOR, PROJECTION_SHARE * self._best["projection"])
        shrunk = "chance_loss" not in metrics and projection < least
        seen = {
            "collapsed_features": (
                projection if shrunk else std,
                std < STD_FLOOR or projection < STD_FLOOR or shrunk,
            ),
            "rank_falling": (rank, rank < RANK_SHARE * self._best["rank"]),
            "few_codes": (codes, codes < CODES_FLOOR),
            "one_cluster": (largest, largest > ONE_CLUSTER),
            "loss_pinned": (
                metrics["loss"],
                step >= GRACE_STEPS and _at_chance(metrics),
            ),
        }
        for name, value in (("rank", rank), ("projection", projection)):
            if value > self._best[name]:
                self._best[name] = value
        found = []
        for name, (value, bad) in seen.items():
            if math.isnan(value):
                continue
            self._counts[name] = self._counts[name] + 1 if bad else 0
            if self._counts[name] >= PATIENCE:
                found.append(self._raise(name, step, value))
        return [alarm for alarm in found if alarm is not None]

    def _raise(self, name: str, step: int, value: float) -> Alarm | None:
        if name in self._raised:
            return None
        self._raised.append(name)
        alarm = Alarm(name, step, float(value))
        logger.warning("ALARM %s", alarm)
        return alarm

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "counts": dict(self._counts),
            "best": dict(self._best),
            "raised": list(self._raised),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._counts = self._counts | dict(state["counts"])
        self._best = dict(state["best"])
        self._raised = list(state["raised"])


def _at_chance(metrics: Mapping[str, float]) -> bool:
    chance = metrics.get("chance_loss", math.nan)
    return abs(metrics["loss"] - chance) < PINNED_SHARE * chance


def queue_size(objective: nn.Module) -> int:
    """Length of the longest queue inside an objective, 0 if it has none."""
    return max((len(m) for m in objective.modules() if isinstance(m, Queue)), default=0)


@torch.no_grad()
def feature_health(objective: Objective, batch: Batch, fabric: Fabric) -> dict[str, float]:
    """Measure how the backbone spreads the first two views of a batch over the sphere.

    Runs in evaluation mode without gradient, so training does not notice.

    Args:
        objective: Its backbone is measured, and its `projector` and `predictor` if it has them.
        batch: Prepared images on the device; a batch with one view gives no alignment.
        fabric: The processes; features of all of them are measured together.

    Returns:
        `feature_std`, `effective_rank`, `uniformity`, with two views `alignment`, with heads
        `projection_std` and `prediction_std`.
    """
    modes = [(module, module.training) for module in objective.modules()]
    objective.eval()
    with fabric.autocast():
        views = [view[:HEALTH_IMAGES] for view in batch.views[:2]]
        features = [objective.backbone(view).flatten(1) for view in views]
        outputs, last = {}, features[0]
        for part, name in _HEADS.items():
            head = getattr(objective, part, None)
            if isinstance(head, nn.Module):
                last = outputs[name] = head(last)
    for module, mode in modes:
        module.training = mode
    first = _gathered(features[0], fabric)
    health = {
        "feature_std": feature_std(first),
        "effective_rank": effective_rank(first),
        "uniformity": uniformity(first),
    }
    if len(features) > 1:
        health["alignment"] = alignment(first, _gathered(features[1], fabric))
    for name, output in outputs.items():
        health[name] = feature_std(_gathered(output, fabric))
    return {name: float(value) for name, value in health.items()}


def _gathered(features: Tensor, fabric: Fabric) -> Tensor:
    if fabric.world_size == 1:
        return features.float()
    gathered = fabric.all_gather(features.float())  # (world, B, D)
    assert isinstance(gathered, Tensor)
    return gathered.flatten(0, 1)
