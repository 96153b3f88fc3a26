import math

import numpy as np
import pytest
import torch

from scoutview.nn.features import alignment, effective_rank, feature_std, uniformity


def features(n=200, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_feature_std__is_one_on_the_sphere_and_zero_when_collapsed():
    assert float(feature_std(features(n=5000))) == pytest.approx(1.0, abs=0.02)
    assert float(feature_std(torch.ones(10, 4))) == 0.0


def test_effective_rank__counts_equal_directions():
    basis = torch.linalg.qr(features(n=20, d=5)).Q  # five singular values of 1
    assert float(effective_rank(basis)) == pytest.approx(5.0, abs=1e-3)
    assert float(effective_rank(torch.ones(10, 4))) == pytest.approx(1.0, abs=1e-3)


def test_effective_rank__equals_the_paper_equation():
    x = features(n=30, d=4)
    singular = np.linalg.svd(x.numpy(), compute_uv=False)
    p = singular / singular.sum() + 1e-7
    assert float(effective_rank(x)) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_alignment__is_the_mean_squared_distance_of_unit_vectors():
    a, b = features(n=5), features(n=5, seed=1)
    expected = [2 - 2 * float(x @ y / x.norm() / y.norm()) for x, y in zip(a, b, strict=True)]
    assert float(alignment(a, b)) == pytest.approx(np.mean(expected))


def test_uniformity__equals_a_loop_over_pairs():
    x = features(n=6)
    u = x / x.norm(dim=1, keepdim=True)
    terms = [math.exp(-2 * float((u[i] - u[j]).square().sum())) for i in range(6) for j in range(i)]
    assert float(uniformity(x)) == pytest.approx(math.log(np.mean(terms)))
    assert float(uniformity(torch.ones(4, 3))) == 0.0
