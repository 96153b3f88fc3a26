import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scoutview.nn.kmeans import Clusters
from scoutview.nn.prototype_sets import PrototypeSet, concentration


def clusters_of(rows, assignment, count):
    centroids = torch.zeros(count, rows.shape[1], dtype=rows.dtype)
    for k in range(count):
        if (assignment == k).any():
            centroids[k] = rows[assignment == k].mean(dim=0)
    counts = torch.bincount(assignment, minlength=count)
    return Clusters(centroids, assignment, counts, torch.zeros(()))


def test_concentration__equals_equation_12_and_has_the_temperature_as_mean():
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = clusters_of(rows, torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2]), 3)
    phi = []
    for k in range(3):
        members = [r for r, own in zip(rows, found.assignment, strict=True) if own == k]
        total = sum(float((r - found.centroids[k]).norm()) for r in members)
        phi.append(total / (len(members) * math.log(len(members) + 10)))
    expected = torch.tensor(phi, dtype=torch.float64) * 0.2 / (sum(phi) / 3)
    torch.testing.assert_close(concentration(rows, found, temperature=0.2), expected)


def test_concentration__of_one_image_copies_or_none_is_that_of_the_widest_cluster():
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[6] = rows[5]
    found = clusters_of(rows, torch.tensor([0, 0, 1, 1, 2, 3, 3, 1]), 5)  # 2 one, 3 copies, 4 none
    phi = concentration(rows, found, temperature=0.1)
    assert torch.isfinite(phi).all()
    assert phi[2:].tolist() == [float(phi.max())] * 3
    assert float(phi.mean()) == pytest.approx(0.1)


def test_concentration__is_the_temperature_where_no_cluster_shows_its_width():
    rows = torch.eye(3, dtype=torch.float64)
    found = clusters_of(rows, torch.arange(3), 3)
    assert concentration(rows, found, temperature=0.3).tolist() == [0.3] * 3


def test_concentration__is_clipped_before_it_is_scaled_on_request():
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[:8] *= 20
    found = clusters_of(rows, torch.arange(40) // 8, 5)
    plain = concentration(rows, found, temperature=0.1).numpy()
    low, high = np.percentile(plain, [10, 90])
    expected = np.clip(plain, low, high)
    clipped = concentration(rows, found, temperature=0.1, percentiles=(10, 90))
    np.testing.assert_allclose(clipped, 0.1 * expected / expected.mean(), rtol=1e-12)
    assert not np.allclose(clipped, plain)


def test_prototype_set__draws_without_replacement_the_same_for_a_step():
    torch.manual_seed(0)
    prototypes = PrototypeSet(20, 3, 50)
    own = torch.tensor([4, 4, 7])
    drawn = prototypes.draw(own, step=3, count=6, outside_batch=False)
    assert len(set(drawn.tolist())) == 6
    assert torch.equal(drawn, prototypes.draw(own, step=3, count=6, outside_batch=False))
    assert not torch.equal(drawn, prototypes.draw(own, step=4, count=6, outside_batch=False))
    seen = set()
    for step in range(50):
        seen |= set(prototypes.draw(own, step=step, count=6, outside_batch=True).tolist())
    assert seen == set(range(20)) - {4, 7}
    everything = prototypes.draw(own, step=0, count=99, outside_batch=False)
    assert everything.tolist() == list(range(20))
    assert len(prototypes.draw(own, step=0, count=99, outside_batch=True)) == 17


def test_prototype_set__keeps_unit_prototypes_and_the_cluster_of_every_image():
    torch.manual_seed(0)
    prototypes = PrototypeSet(3, 4, 30)
    group = torch.arange(30) % 3
    features = F.normalize(torch.eye(4)[group] + 0.05 * torch.randn(30, 4), dim=1)
    rows = torch.randperm(30)
    prototypes.fit(
        rows, features[rows], epoch=0, temperature=0.2, rounds=10, restarts=1, percentiles=None
    )
    torch.testing.assert_close(prototypes.prototypes.norm(dim=1), torch.ones(3))
    assert float(prototypes.concentration.mean()) == pytest.approx(0.2, rel=1e-5)
    assert float(prototypes.largest) == pytest.approx(1 / 3)
    assert torch.equal((features @ prototypes.prototypes.T).argmax(dim=1), prototypes.assignment)
    assert [len(prototypes.assignment[group == k].unique()) for k in range(3)] == [1, 1, 1]
