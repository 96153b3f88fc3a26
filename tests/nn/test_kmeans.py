import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from tests.processes import run_ranks

from scoutview.base.errors import ConfigError
from scoutview.nn.kmeans import _spread_out, chunk_rows, kmeans, nearest


def rows_of(n=300, dim=6, groups=5, spread=0.6, seed=0):
    """Groups that overlap a little, (n, dim) float64, and the group of each row."""
    random = torch.Generator().manual_seed(seed)
    centres = 2.0 * torch.randn(groups, dim, generator=random, dtype=torch.float64)
    group = torch.arange(n) % groups
    noise = torch.randn(n, dim, generator=random, dtype=torch.float64)
    return centres[group] + spread * noise, group


def test_kmeans__equals_scikit_learn_from_the_same_start():
    rows, _ = rows_of(spread=2.0)
    start = rows[:7]
    ours = kmeans(rows, 7, rounds=100, start=start)
    theirs = KMeans(7, init=start.numpy(), n_init=1, max_iter=100, tol=0.0).fit(rows.numpy())
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, rtol=1e-10)
    assert np.array_equal(ours.assignment, theirs.labels_)
    assert float(ours.spread) == pytest.approx(theirs.inertia_ / len(rows), rel=1e-10)
    assert ours.counts.tolist() == np.bincount(theirs.labels_, minlength=7).tolist()


def spherical_by_hand(rows, start, rounds):
    """One row and one cluster at a time."""
    centroids = [c / np.linalg.norm(c) for c in start]
    for _ in range(rounds):
        label = [int(np.argmax([r @ c for c in centroids])) for r in rows]
        for k in range(len(centroids)):
            members = [r for r, own in zip(rows, label, strict=True) if own == k]
            if members:
                mean = np.mean(members, axis=0)
                centroids[k] = mean / np.linalg.norm(mean)
    return np.array(centroids), [int(np.argmax([r @ c for c in centroids])) for r in rows]


def test_kmeans__spherical_equals_the_rounds_written_slowly():
    rows = F.normalize(rows_of(n=60, groups=3)[0], dim=1)
    ours = kmeans(rows, 4, rounds=5, spherical=True, start=rows[:4])
    centroids, labels = spherical_by_hand(rows.numpy(), rows[:4].numpy(), 5)
    np.testing.assert_allclose(ours.centroids, centroids, rtol=1e-12)
    assert ours.assignment.tolist() == labels
    distance = (rows - ours.centroids[ours.assignment]).square().sum(dim=1).mean()
    assert float(ours.spread) == pytest.approx(float(distance), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kmeans__finds_well_separated_groups(dtype):
    rows, group = rows_of(spread=0.1, groups=12)
    found = kmeans(rows.to(dtype), 12, rounds=20)
    assert found.centroids.dtype == dtype
    assert adjusted_rand_score(group, found.assignment) == 1.0


def test_kmeans__spread_out_seeds_beat_random_ones():
    rows, _ = rows_of(n=400, groups=40, spread=0.05)
    start = {
        seeding: np.mean(
            [float(kmeans(rows, 40, rounds=1, seeding=seeding, seed=s).spread) for s in range(5)]
        )
        for seeding in ("k-means++", "random")
    }
    assert start["k-means++"] < 0.3 * start["random"]


def test_kmeans__is_the_same_for_a_seed_and_other_for_another():
    rows, _ = rows_of(spread=3.0)
    first, again, other = (kmeans(rows, 9, rounds=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.centroids, again.centroids)
    assert not torch.allclose(first.centroids, other.centroids)


def test_kmeans__takes_the_best_of_its_restarts():
    rows, _ = rows_of(n=400, groups=20, spread=0.05)
    options = {"rounds": 5, "seeding": "random", "seed": 3}
    one = kmeans(rows, 20, **options)
    best = kmeans(rows, 20, **options, restarts=6)
    assert float(best.spread) < float(one.spread)


def empty_start():
    """Two tight groups; the third centroid is far from all rows."""
    rows = torch.tensor([[0.0, 0.1], [0.0, -0.1], [0.1, 0.0], [9.0, 9.0]], dtype=torch.float64)
    return rows, torch.tensor([[0.0, 0.0], [9.0, 9.0], [50.0, -50.0]], dtype=torch.float64)


def test_kmeans__keeps_an_empty_centroid_where_it_is():
    rows, start = empty_start()
    found = kmeans(rows, 3, rounds=5, start=start)
    assert found.counts.tolist() == [3, 1, 0]
    assert torch.equal(found.centroids[2], start[2])


def test_kmeans__splits_the_largest_cluster_for_an_empty_centroid():
    rows, start = empty_start()
    found = kmeans(rows, 3, rounds=5, start=start, empty="split")
    assert found.counts.min() > 0
    assert found.assignment[3] == 1
    assert float(found.spread) < 0.02


def test_kmeans__leaves_a_centroid_empty_when_no_cluster_can_be_split():
    rows = torch.eye(3, dtype=torch.float64)[[0, 0, 1, 2]]  # only copies could be split
    found = kmeans(rows, 4, rounds=4, empty="split")
    assert torch.isfinite(found.centroids).all()
    assert float(found.spread) < 1e-6


def test_kmeans__refuses_more_clusters_than_rows():
    with pytest.raises(ConfigError, match="7 clusters for 6 rows"):
        kmeans(torch.randn(6, 2), 7, rounds=1)


def test_nearest__gives_the_same_for_any_chunk(monkeypatch):
    rows, _ = rows_of(n=500)
    centroids = rows[:11] + 0.1
    sums, whole = torch.zeros_like(centroids), torch.zeros_like(centroids)
    expected = torch.cdist(rows, centroids).argmin(dim=1)
    monkeypatch.setattr("scoutview.nn.kmeans.chunk_rows", lambda *_: 64)
    index, score = nearest(rows, centroids, sums=sums)
    assert torch.equal(index, expected)
    monkeypatch.undo()
    assert chunk_rows(11, rows.device) > len(rows)
    index, again = nearest(rows, centroids, sums=whole)
    assert torch.equal(index, expected)
    torch.testing.assert_close(score, again)
    by_hand = torch.stack([rows[expected == k].sum(dim=0) for k in range(11)])
    torch.testing.assert_close(sums, by_hand)
    torch.testing.assert_close(whole, by_hand)


def test_kmeans__runs_in_full_precision_under_autocast():
    rows = rows_of()[0].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kmeans(rows.bfloat16(), 5, rounds=5)
    assert found.centroids.dtype == torch.float32


def of_rank(cut):
    """What one of two processes finds with rows dealt in two runs, or by turns."""
    rows, _ = rows_of(spread=3.0)
    mine = slice(cut) if dist.get_rank() == 0 else slice(cut, None)
    by_turns = torch.arange(dist.get_rank(), len(rows), 2)
    options = {"rounds": 4, "seed": 5, "restarts": 2}
    return (
        kmeans(rows[mine], 9, **options),
        kmeans(rows[mine], 9, **options, spherical=True, empty="split", seeding="random"),
        kmeans(rows[by_turns], 9, **options, numbers=by_turns),
    )


@pytest.mark.ddp
def test_kmeans__two_processes_find_what_one_finds():
    rows, _ = rows_of(spread=3.0)
    options = {"rounds": 4, "seed": 5, "restarts": 2}
    plain = kmeans(rows, 9, **options)
    spherical = kmeans(rows, 9, **options, spherical=True, empty="split", seeding="random")
    first, second = run_ranks(of_rank, 2, 130)
    for expected, a, b in zip((plain, spherical, plain), first, second, strict=True):
        assert torch.equal(a.centroids, b.centroids)
        torch.testing.assert_close(a.centroids, expected.centroids, rtol=1e-12, atol=1e-12)
        assert torch.equal(a.counts, expected.counts)
        torch.testing.assert_close(a.spread, expected.spread, rtol=1e-12, atol=0)
    for expected, a, b in zip((plain, spherical), first[:2], second[:2], strict=True):
        assert torch.equal(torch.cat([a.assignment, b.assignment]), expected.assignment)
    assert torch.equal(first[2].assignment, plain.assignment[::2])


def test_spread_out__draws_in_proportion_to_the_squared_distance():
    """The second row, given the first: chi-squared over many draws, also across blocks of rows."""
    pool = rows_of(n=600, groups=3)[0]
    first = 0.3  # row 180
    picks = [
        int(_spread_out(pool, torch.tensor([first, (i + 0.5) / 1000]).double())[1])
        for i in range(1000)
    ]
    distance = (pool - pool[180]).square().sum(dim=1).numpy()
    expected = 1000 * distance / distance.sum()
    found = np.bincount(picks, minlength=600)
    assert found[180] == 0
    assert np.abs(found - expected).max() <= 1.0  # evenly spaced draws: each within one
