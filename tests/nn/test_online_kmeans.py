import pytest
import torch
import torch.nn.functional as F

from scoutview.base.errors import ConfigError
from scoutview.nn.banks import MemoryBank
from scoutview.nn.online_kmeans import OnlineKMeans, first_largest, halves


def bank_of(rows: torch.Tensor) -> MemoryBank:
    bank = MemoryBank(len(rows), rows.shape[1]).double()
    bank.rows.copy_(F.normalize(rows, dim=1))
    return bank


def random_bank(n, dim=6, seed=0) -> MemoryBank:
    random = torch.Generator().manual_seed(seed)
    return bank_of(torch.randn(n, dim, generator=random, dtype=torch.float64))


def means_by_hand(bank, labels, clusters):
    return torch.stack([bank.rows[labels == c].mean(dim=0) for c in range(clusters)])


def started(bank, clusters, **options) -> OnlineKMeans:
    found = OnlineKMeans(len(bank), bank.rows.shape[1], clusters, **options).double()
    found.start(bank, torch.arange(len(bank)) % clusters)
    return found


def step(clusters, bank, seed, size=9) -> torch.Tensor:
    """New features of random rows, the last of which stands twice."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(bank), generator=random)[:size]
    rows = torch.cat([rows, rows[-1:]])
    values = torch.randn(size + 1, bank.rows.shape[1], generator=random, dtype=torch.float64)
    old = bank.read(rows)
    bank.write(rows, F.normalize(values, dim=1), momentum=0.5)
    return clusters.update(rows, old, bank.read(rows))


def test_update__takes_the_nearest_centroid_and_averages_anew():
    bank = random_bank(30)
    clusters = started(bank, 3)
    for seed in range(20):
        before, centroids = clusters.labels.clone(), clusters.centroids.clone()
        rows = bank.rows.clone()
        changed = step(clusters, bank, seed)
        touched = (bank.rows != rows).any(dim=1)
        nearest = torch.cdist(bank.rows, centroids).argmin(dim=1)
        expected = torch.where(touched, nearest.int(), before)
        assert torch.equal(clusters.labels, expected)
        assert float(changed) == pytest.approx(float((expected != before).sum()) / 9)
        for c in clusters.labels.unique().tolist():
            mean = bank.rows[clusters.labels == c].mean(dim=0)
            torch.testing.assert_close(clusters.centroids[c], mean)
        assert clusters.counts.tolist() == torch.bincount(expected, minlength=3).tolist()


def test_assign__by_dot_product_is_another_choice():
    """A wide cluster has a short mean, which a dot product finds too small."""
    angles = torch.tensor([-1.2, 1.2, 1.5, 1.6], dtype=torch.float64)
    bank = bank_of(torch.stack([angles.cos(), angles.sin()], dim=1))
    point = torch.tensor([[0.8, 0.6]], dtype=torch.float64)
    found = []
    for distance in ("euclidean", "dot"):
        clusters = OnlineKMeans(4, 2, 2, distance=distance).double()
        clusters.start(bank, torch.tensor([0, 0, 1, 1]))
        found.append(int(clusters.assign(point)))
    means = means_by_hand(bank, torch.tensor([0, 0, 1, 1]), 2)
    assert int(torch.cdist(point, means).argmin()) == 0
    assert int((point @ means.T).argmax()) == 1
    assert found == [0, 1]


def test_empty_cluster__keeps_its_centroid():
    bank = bank_of(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]).double())
    clusters = OnlineKMeans(3, 2, 2).double()
    clusters.start(bank, torch.tensor([0, 0, 1]))
    before = clusters.centroids[1].clone()
    rows = torch.tensor([2])
    old = bank.read(rows)
    bank.write(rows, torch.tensor([[1.0, 0.05]]).double())
    assert float(clusters.update(rows, old, bank.read(rows))) == 1
    assert clusters.counts.tolist() == [3, 0]
    assert torch.equal(clusters.centroids[1], before)


def test_refresh__removes_the_drift_of_float32():
    bank = random_bank(40).float()
    clusters = OnlineKMeans(40, 6, 4)
    clusters.start(bank, torch.arange(40) % 4)
    clusters.sums.add_(0.01)
    clusters.refresh(bank)
    torch.testing.assert_close(clusters.centroids, means_by_hand(bank, clusters.labels, 4))


def test_cluster__finds_separate_groups():
    centres = torch.eye(5, dtype=torch.float64)
    noise = torch.randn(100, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bank = bank_of(centres[torch.arange(100) % 5] + 0.05 * noise)
    clusters = OnlineKMeans(100, 5, 5).double()
    clusters.cluster(bank)
    assert clusters.counts.tolist() == [20] * 5
    for group in range(5):
        assert len(clusters.labels[group::5].unique()) == 1


@pytest.mark.parametrize(("smallest_half", "fewest"), [(None, 5), (1, 2)])
def test_repair__dissolves_small_clusters_and_halves_large_ones(smallest_half, fewest):
    random = torch.Generator().manual_seed(1)
    centres = torch.eye(4, dtype=torch.float64)
    noise = 0.02 * torch.randn(42, 4, generator=random, dtype=torch.float64)
    groups = torch.tensor([0] * 20 + [1] * 20 + [2, 2])
    bank = bank_of(centres[groups] + noise)
    labels = torch.tensor([0] * 40 + [1, 1])  # two groups under one label, one pair, one empty
    clusters = OnlineKMeans(42, 4, 3, smallest=5, smallest_half=smallest_half).double()
    clusters.start(bank, labels)
    clusters.repair(bank)
    assert clusters.counts.sum() == 42
    assert int(clusters.counts.min()) >= fewest
    assert (int(clusters.counts.min()) == 2) == (smallest_half == 1)  # the pair, cut off again
    groups = len(clusters.labels[:20].unique()) + len(clusters.labels[20:40].unique())
    assert groups == (2 if smallest_half == 1 else 3)
    assert not set(clusters.labels[:20].tolist()) & set(clusters.labels[20:40].tolist())
    torch.testing.assert_close(clusters.centroids, means_by_hand(bank, clusters.labels, 3))
    assert clusters.buckets.sizes.tolist() == clusters.counts.tolist()


def test_redistribute__halves_the_largest_first_whatever_its_halves_are():
    """24 = (8 + 8) + 8 rows: the half of 16 comes before the 14, which is larger than 24 / 2."""
    centres = torch.eye(6, dtype=torch.float64)
    centres[1] = (centres[0] + 0.6 * centres[1]) / 1.36**0.5
    centres[4] = (centres[3] + 0.6 * centres[4]) / 1.36**0.5
    groups = torch.tensor([0] * 8 + [1] * 8 + [2] * 8 + [3] * 7 + [4] * 7)
    random = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(38, 6, generator=random, dtype=torch.float64)
    bank = bank_of(centres[groups] + noise)
    labels = torch.tensor([0] * 24 + [1] * 14)
    clusters = OnlineKMeans(38, 6, 4, smallest=3).double()
    clusters.start(bank, labels)
    clusters.redistribute(bank)
    found = [sorted(clusters.labels[groups == g].unique().tolist()) for g in range(5)]
    assert all(len(numbers) == 1 for numbers in found)
    assert len({numbers[0] for numbers in found[:3]}) == 3
    assert found[3] == found[4]


def test_repair__splits_equal_rows_in_the_middle():
    bank = bank_of(torch.ones(32, 3, dtype=torch.float64))
    clusters = OnlineKMeans(32, 3, 4, smallest=8).double()
    clusters.start(bank, torch.zeros(32, dtype=torch.int64))
    clusters.repair(bank)
    assert sorted(clusters.counts.tolist()) == [8, 8, 8, 8]


def test_halves__are_those_of_2_means_in_every_group():
    random = torch.Generator().manual_seed(0)
    group = torch.arange(60) % 3
    side = torch.rand(60, generator=random) < 0.4
    vectors = torch.randn(60, 4, generator=random, dtype=torch.float64) * 0.1
    vectors[:, 0] += 3.0 * side + 10.0 * group
    second = halves(vectors, group, 3)
    for g in range(3):
        mine, expected = second[group == g], side[group == g]
        assert torch.equal(mine, expected) or torch.equal(mine, ~expected)


def test_halves__are_not_taken_in_by_a_stray_vector():
    line = torch.tensor([-4.0, -4.1, -3.9, -4.2, -3.8, 4.0, 4.1, 3.9, 4.2, 3.8, 0.0])
    vectors = torch.stack([line, torch.zeros(11)], dim=1).double()
    vectors[10, 1] = 9.0  # the farthest from the mean and from all others
    second = halves(vectors, torch.zeros(11, dtype=torch.int64), 1)
    assert len(second[:5].unique()) == len(second[5:10].unique()) == 1
    assert bool(second[0] != second[5])


@pytest.mark.parametrize("columns", [1, 2, 10, 97, 100])
def test_first_largest__is_argmax(columns):
    scores = torch.randint(5, (40, columns), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(first_largest(scores), scores.argmax(dim=1))


def test_clusters__that_the_rows_cannot_fill_are_refused():
    with pytest.raises(ConfigError, match="at most 4 clusters of 10"):
        OnlineKMeans(49, 3, 5, smallest=10)
