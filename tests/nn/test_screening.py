import pytest
import torch
import torch.nn.functional as F

from scoutview.nn.online_kmeans import OnlineKMeans
from scoutview.nn.screening import Screening


def data(batch, clusters, dim, length, seed=0):
    random = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(batch, dim, generator=random), dim=1)
    centroids = length * F.normalize(torch.randn(clusters, dim, generator=random), dim=1)
    centroids *= 0.5 + torch.rand(clusters, 1, generator=random)
    return vectors, centroids, -0.5 * centroids.square().sum(dim=1)


@pytest.mark.parametrize("clusters", [1, 7, 97, 1000])
@pytest.mark.parametrize("length", [0.05, 0.3, 1.0])
def test_screening__finds_the_nearest_centroid(clusters, length):
    screening = Screening()
    for seed in range(3):
        vectors, centroids, offsets = data(70, clusters, 32, length, seed)
        found = screening.nearest(vectors, centroids, offsets)
        expected = torch.cdist(vectors.double(), centroids.double()).argmin(dim=1)
        assert torch.equal(found, expected)


def test_screening__decides_by_float32_what_bfloat16_cannot_tell():
    """Two centroids round to the same narrow numbers; a third is a little farther."""
    vectors = torch.tensor([[1.0, 0.0]])
    centroids = torch.tensor([[0.5, 0.0], [0.5 + 2.0**-13, 0.0], [0.49, 0.0]])
    offsets = -0.5 * centroids.square().sum(dim=1)
    assert torch.equal(centroids[0].bfloat16(), centroids[1].bfloat16())
    assert Screening().nearest(vectors, centroids, offsets).tolist() == [1]


def test_screening__takes_the_first_of_equal_centroids():
    vectors, centroids, _ = data(5, 40, 8, 0.5)
    centroids = torch.cat([centroids, centroids])
    found = Screening().nearest(vectors, centroids, -0.5 * centroids.square().sum(dim=1))
    assert int(found.max()) < 40


def test_screening__gives_up_where_all_centroids_are_alike():
    vectors, _, _ = data(3, 1, 8, 0.5)
    centroids = torch.full((200, 8), 0.1)
    assert Screening().nearest(vectors, centroids, -0.5 * centroids.square().sum(dim=1)) is None


def test_assign__is_the_same_with_and_without_screening(monkeypatch):
    vectors, centroids, offsets = data(64, 500, 16, 0.4)
    clusters = OnlineKMeans(500, 16, 500)
    clusters.centroids.copy_(centroids)
    clusters.offsets.copy_(offsets)
    found = []
    for pays in (True, False):
        monkeypatch.setattr(Screening, "pays", staticmethod(lambda v, c, pays=pays: pays))
        found.append(clusters.assign(vectors))
    assert torch.equal(*found)


def test_assign__falls_back_where_screening_gives_up(monkeypatch):
    monkeypatch.setattr(Screening, "pays", staticmethod(lambda v, c: True))
    clusters = OnlineKMeans(200, 8, 200)
    clusters.centroids.fill_(0.1)
    assert clusters.assign(data(3, 1, 8, 0.5)[0]).tolist() == [0, 0, 0]
