import numpy as np
import pytest
import torch
from torch import nn

from scoutview.base.errors import DataError, RunError
from scoutview.contract import Objective
from scoutview.tasks.selection import Selection

CPU = torch.device("cpu")


class Toy(Objective):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(1, 1)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


def run(selection, objective, scores, start=1):
    for epoch, score in enumerate(scores, start):
        with torch.no_grad():
            objective.backbone.weight.fill_(epoch)
            objective.count.fill_(epoch)
        objective.score = score
        assert selection.due(epoch, last=False)
        assert selection.measure(objective, CPU) == {"val_auc": score}
        if selection.exhausted:
            return epoch
    return None


def make(tmp_path, name="best", **settings):
    path = tmp_path / f"{name}.safetensors"
    return Selection(lambda o: np.array([o.score]), lambda p: float(p[0]), path, **settings)


def test_selection__restores_the_first_best_epoch(tmp_path):
    selection, objective = make(tmp_path), Toy()
    run(selection, objective, [0.6, 0.8, 0.8, 0.7])
    assert selection.best == 2
    selection.restore(objective)
    assert float(objective.backbone.weight.detach()) == 2.0
    assert int(objective.count) == 2


def test_selection__has_had_enough_after_its_patience(tmp_path):
    assert run(make(tmp_path, patience=2), Toy(), [0.6, 0.8, 0.7, 0.7, 0.9]) == 4
    assert run(make(tmp_path), Toy(), [0.6, 0.5, 0.4, 0.3]) is None


def test_selection__resumed_equals_uninterrupted(tmp_path):
    scores = [0.6, 0.8, 0.7, 0.9, 0.5]
    whole = make(tmp_path)
    run(whole, Toy(), scores)
    first = make(tmp_path, "other")
    run(first, Toy(), scores[:4])
    # the checkpoint was older than the best weights: epoch 3 and 4 are trained again
    again = make(tmp_path, "other")
    again.resume(2)
    assert again.history == {1: 0.6, 2: 0.8}
    objective = Toy()
    run(again, objective, scores[2:], start=3)
    assert again.history == whole.history
    again.restore(objective)
    assert int(objective.count) == 4


def test_selection__notices_that_a_resumed_run_did_not_repeat_itself(tmp_path):
    first = make(tmp_path)
    run(first, Toy(), [0.6, 0.9])
    again = make(tmp_path)
    again.resume(1)
    run(again, Toy(), [0.5], start=2)
    with pytest.raises(RunError, match="holds epoch 2, validation chose 1"):
        again.restore(Toy())


def test_selection__last_epoch_keeps_nothing(tmp_path):
    selection, objective = make(tmp_path, keep_best=False), Toy()
    assert not selection.due(1, last=False)  # one validation is enough
    assert selection.due(2, last=True)
    objective.score = 0.1
    selection.measure(objective, CPU)
    assert selection.best == 2
    assert not list(tmp_path.iterdir())


def test_selection__cannot_choose_without_a_score(tmp_path):
    with pytest.raises(DataError, match="cannot choose an epoch"):
        run(make(tmp_path), Toy(), [float("nan")])
