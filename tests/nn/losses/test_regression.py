import pytest
import torch

from scoutview.nn.losses.regression import (
    normalized_regression,
    symmetric_negative_cosine,
    symmetric_regression,
)


def rows(seed, n=4, d=6):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_normalized_regression__is_two_minus_two_cosines():
    a, b = rows(0), rows(1)
    cosine = [float(x @ y / (x.norm() * y.norm())) for x, y in zip(a, b, strict=True)]
    assert normalized_regression(a, b).tolist() == pytest.approx([2 - 2 * c for c in cosine])


def test_normalized_regression__is_0_for_parallel_and_4_for_opposite_rows():
    a = rows(0)
    assert normalized_regression(a, 5 * a).abs().max() < 1e-12
    assert normalized_regression(a, -a).tolist() == pytest.approx([4.0] * 4)


def test_symmetric_regression__crosses_views_and_sums_the_directions():
    p0, p1, t0, t1 = (rows(seed) for seed in range(4))
    expected = normalized_regression(p0, t1).mean() + normalized_regression(p1, t0).mean()
    assert float(symmetric_regression(p0, p1, t0, t1)) == pytest.approx(float(expected))


def test_symmetric_negative_cosine__counts_a_zero_vector_as_unrelated():
    a, zero = torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    assert symmetric_negative_cosine(a, a, a, a) == pytest.approx(-1.0)
    assert symmetric_negative_cosine(zero, a, a, a) == pytest.approx(-0.5)
