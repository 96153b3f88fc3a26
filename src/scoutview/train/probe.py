"""Probes while training: what nearest neighbours and a linear classifier make of the features."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from scoutview.contract import LabelSpec, Objective
from scoutview.data.batch import IGNORE, Batch
from scoutview.nn.probe_solvers import fit_linear_probe, knn_scores
from scoutview.stats.ranking import auc

NEIGHBOURS: Final = 20
"""Neighbours that vote."""
PENALTY: Final = 1e-3
"""L2 penalty of the linear probe on standardised features."""

Batches = Callable[[], Iterator[Batch]]


class LabelledProbe:
    """Macro AUC of kNN and of a linear probe on the backbone's features.

    Args:
        fit_on: Starts a pass over the labelled images that the classifiers learn from.
        score_on: Starts a pass over the images that they are scored on.
        labels: What the targets mean.
        prepare: Widens and standardises a batch on the device.
        every: Epochs between two measurements; the last epoch is always measured.
        autocast: Precision of the forward pass.
    """

    def __init__(
        self,
        fit_on: Batches,
        score_on: Batches,
        labels: LabelSpec,
        *,
        prepare: Callable[[Batch], Batch],
        every: int,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._parts = (fit_on, score_on)
        self._labels = labels
        self._prepare = prepare
        self._every = every
        self._autocast = autocast

    def due(self, epochs: int, *, last: bool) -> bool:
        """Whether to measure after this many epochs."""
        return last or (epochs > 0 and epochs % self._every == 0)

    def measure(self, objective: Objective, device: torch.device) -> dict[str, float]:
        """Measure `knn_auc` and `linear_auc`; neither the objective nor random state changes."""
        modes = [(module, module.training) for module in objective.modules()]
        objective.eval()
        train, test = (self._features(objective, part, device) for part in self._parts)
        for module, mode in modes:
            module.training = mode
        (x, y), (x_test, y_test) = train, test
        fitted = fit_linear_probe(x, y, kind="multilabel", l2=PENALTY)
        return {
            "knn_auc": macro_auc(y_test, knn_scores(x, y, x_test, k=NEIGHBOURS)),
            "linear_auc": macro_auc(y_test, fitted.probabilities(x_test)),
        }

    @torch.no_grad()
    def _features(
        self, objective: Objective, batches: Batches, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and targets (N, L) with NaN where missing, on the CPU."""
        features, targets = [], []
        for batch in batches():
            assert batch.targets is not None
            # copied first, because a loader may use a batch's memory again
            targets.append(self._one_hot(batch.targets.clone()))
            prepared = self._prepare(batch.to(device))
            with self._autocast():
                features.append(objective.backbone(prepared.views[0]).float().cpu())
        return torch.cat(features), torch.cat(targets)

    def _one_hot(self, targets: Tensor) -> Tensor:
        if self._labels.kind != "multiclass":
            return torch.where(targets == IGNORE, torch.nan, targets.double())
        classes = torch.arange(self._labels.outputs)
        hot = (targets[:, None] == classes).double()
        return torch.where(targets[:, None] == IGNORE, torch.nan, hot)


def macro_auc(targets: Tensor, scores: Tensor) -> float:
    """Mean AUC over the labels that have both classes; NaN if none has.

    Args:
        targets: 1, 0 or NaN, (N, L).
        scores: Larger is more likely, (N, L).
    """
    found = np.array(
        [auc(targets[:, k].numpy(), scores[:, k].double().numpy()) for k in range(targets.shape[1])]
    )
    known = found[~np.isnan(found)]
    return float(known.mean()) if len(known) else float("nan")
