import math

import numpy as np
import ot
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.processes import run_ranks

from scoutview.nn.partition import equal_partition, prototype_log_probabilities


def log_probabilities(n=24, k=4, sharpness=10.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, k, generator=random, dtype=torch.float64)
    return sharpness * F.log_softmax(scores, dim=1)


def test_equal_partition__converges_to_the_optimal_transport_plan():
    scaled = log_probabilities(sharpness=3.0)
    n, k = scaled.shape
    plan = ot.sinkhorn(np.full(n, 1 / n), np.full(k, 1 / k), -scaled.numpy(), reg=1.0)
    found = equal_partition(lambda: [scaled], tolerance=1e-10)
    ours = (scaled + found.log_rows[:, None] + found.log_labels).exp()
    np.testing.assert_allclose(ours, plan, atol=1e-8)
    assert np.array_equal(found.labels, plan.argmax(axis=1))


def test_equal_partition__uses_labels_equally_often_where_predictions_do_not():
    scaled = log_probabilities(n=200)
    scaled[:, 0] += 25.0  # a prediction that prefers one label
    assert (scaled.argmax(dim=1) == 0).float().mean() > 0.8
    found = equal_partition(lambda: [scaled], tolerance=1e-6)
    counts = torch.bincount(found.labels, minlength=4)
    assert counts.max() - counts.min() <= 6


def test_equal_partition__does_not_depend_on_the_chunks():
    scaled = log_probabilities()
    whole = equal_partition(lambda: [scaled])
    parts = equal_partition(lambda: scaled.split(5))
    assert torch.equal(whole.labels, parts.labels)
    torch.testing.assert_close(whole.log_rows, parts.log_rows, rtol=1e-12, atol=1e-12)
    assert whole.rounds == parts.rounds


def test_equal_partition__stops_at_its_rounds_and_looks_at_every_tenth():
    scaled = log_probabilities(sharpness=50.0)
    assert equal_partition(lambda: [scaled], rounds=3).rounds == 3
    assert equal_partition(lambda: [scaled]).rounds % 10 == 1


def test_equal_partition__holds_where_float32_would_underflow():
    rows = F.normalize(torch.randn(64, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    prototypes = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    options = {"temperature": 0.1, "sharpness": 25.0}  # exp(-500) among the entries
    chunks = prototype_log_probabilities(rows, prototypes, **options)
    exact = prototype_log_probabilities(rows.double(), prototypes.double(), **options)
    narrow, wide = equal_partition(chunks, rounds=50), equal_partition(exact, rounds=50)
    assert torch.isfinite(narrow.log_labels).all()
    assert (narrow.labels == wide.labels).float().mean() > 0.95


def test_prototype_log_probabilities__give_the_same_in_every_pass(monkeypatch):
    rows, prototypes = F.normalize(torch.randn(9, 3), dim=1), F.normalize(torch.eye(3), dim=1)
    kept = prototype_log_probabilities(rows, prototypes, temperature=0.1, sharpness=2.0)
    monkeypatch.setattr("scoutview.nn.partition._KEPT", 0)
    anew = prototype_log_probabilities(rows, prototypes, temperature=0.1, sharpness=2.0)
    by_hand = 2.0 * torch.log_softmax(rows @ prototypes.T / 0.1, dim=1)
    for chunks in (kept, anew):
        for _ in range(2):
            torch.testing.assert_close(torch.cat(list(chunks())), by_hand)


def part_of_partition():
    scaled = log_probabilities()
    mine = scaled[:15] if dist.get_rank() == 0 else scaled[15:]
    return equal_partition(lambda: mine.split(4))


@pytest.mark.ddp
def test_equal_partition__labels_the_rows_of_all_processes_together():
    whole = equal_partition(lambda: [log_probabilities()])
    parts = run_ranks(part_of_partition, 2)
    assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
    for part in parts:
        torch.testing.assert_close(part.log_labels, whole.log_labels, rtol=1e-12, atol=1e-12)
        assert math.isclose(part.rounds, whole.rounds)
