"""Validation while a task trains: which epoch is best, and when to stop."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from scoutview.base.errors import DataError, RunError
from scoutview.base.files import atomic_writer
from scoutview.contract import Objective

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]


class Selection:
    """Scores the validation part after every epoch and keeps the weights of the best one.

    The weights lie in one safetensors file with the scores so far, written whole or not at all, so
    a run that was killed goes on with what it knew.
    """

    def __init__(
        self,
        predict: Callable[[Objective], Floats],
        score: Callable[[Floats], float],
        path: Path,
        *,
        patience: int | None = None,
        keep_best: bool = True,
    ) -> None:
        """Prepare for a run.

        Args:
            predict: Gives probabilities of the validation part, (N, L).
            score: Larger is better; NaN cannot choose.
            path: File of the best weights.
            patience: Epochs without a better score after which the run has had enough; None: never.
            keep_best: Keep the best weights; otherwise only score, and `best` is the last epoch.
        """
        self._predict = predict
        self._score = score
        self._path = path
        self._patience = patience
        self._keep_best = keep_best
        self._epoch = 0
        self.history: dict[int, float] = {}

    def resume(self, epochs: int) -> None:
        """Forget what came after the epoch that training goes on from."""
        side = self._path.with_suffix(".json")
        if side.is_file():
            known = json.loads(side.read_text(encoding="utf-8"))
            self.history = {int(e): s for e, s in known.items() if int(e) <= epochs}

    def due(self, epochs: int, *, last: bool) -> bool:
        """After every epoch if epochs are chosen or counted, otherwise at the end only."""
        self._epoch = epochs
        return last or self._keep_best or self._patience is not None

    def measure(self, objective: Objective, device: torch.device) -> dict[str, float]:
        """Score the validation part; keep the weights if they are the best so far."""
        value = self._score(self._predict(objective))
        if math.isnan(value) and self._keep_best:
            raise DataError(
                "No label has both classes in validation, so it cannot choose an epoch; set"
                " epoch_choice to 'last', or make the validation part larger."
            )
        better = not self.history or value > max(self.history.values())
        self.history[self._epoch] = value
        if self._keep_best:
            if better:
                self._write(objective)
            with atomic_writer(self._path.with_suffix(".json")) as stream:
                stream.write(json.dumps(self.history).encode())
        return {"val_auc": value}

    @property
    def best(self) -> int:
        """Number of the chosen epoch, from 1."""
        if not self._keep_best:
            return max(self.history)
        return max(self.history, key=lambda epoch: (self.history[epoch], -epoch))

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        if self._patience is None or not self.history:
            return False
        return max(self.history) - self.best >= self._patience

    def restore(self, objective: Objective) -> None:
        """Put the best weights into the objective.

        Raises:
            RunError: The file belongs to another epoch, so the run did not repeat itself.
        """
        if not self._keep_best:
            return
        tensors = load_tensors(self._path.read_bytes())
        epoch = int(tensors.pop("epoch"))
        if epoch != self.best:
            raise RunError(
                f"{self._path.name} holds epoch {epoch}, validation chose {self.best}: the resumed"
                " run did not repeat the stopped one. Remove the run and train it again."
            )
        own = objective.state_dict()
        if own.keys() != tensors.keys():
            raise RunError(f"{self._path.name} belongs to another model; remove the run.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])

    def _write(self, objective: Objective) -> None:
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in objective.state_dict().items()
        }
        tensors["epoch"] = torch.tensor(self._epoch)
        with atomic_writer(self._path) as stream:
            stream.write(save_tensors(tensors))
