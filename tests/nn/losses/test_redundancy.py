import numpy as np
import pytest
import torch

from scoutview.nn.losses.redundancy import barlow_twins_loss, cross_correlation


def pair(n=9, d=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, n, d, generator=generator, dtype=torch.float64)


def test_cross_correlation__equals_numpy():
    z0, z1 = pair()
    expected = np.corrcoef(z0.numpy(), z1.numpy(), rowvar=False)[:5, 5:]
    np.testing.assert_allclose(cross_correlation(z0, z1).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(9, 5), (5, 9)])
def test_barlow_twins_loss__equals_the_paper_equation(n, d):
    """Equations 1 and 2 of arXiv:2103.03230, one pair of features at a time."""
    z0, z1 = pair(n, d)
    loss = 0.0
    for i in range(d):
        for j in range(d):
            a, b = z0[:, i] - z0[:, i].mean(), z1[:, j] - z1[:, j].mean()
            c = float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))
            loss += (1 - c) ** 2 if i == j else 0.005 * c**2
    actual = barlow_twins_loss(z0, z1, off_diagonal=0.005)
    assert float(actual) == pytest.approx(loss, rel=1e-12)


def test_barlow_twins_loss__ignores_scale_and_shift_of_features():
    z0, z1 = pair()
    loss = barlow_twins_loss(z0, z1, off_diagonal=0.01)
    moved = barlow_twins_loss(3 * z0 + 7, z1 * torch.arange(1, 6), off_diagonal=0.01)
    torch.testing.assert_close(moved, loss)


def test_cross_correlation__of_a_constant_feature_is_zero_not_nan():
    z0, z1 = pair()
    z0[:, 2] = 4.0
    c = cross_correlation(z0, z1)
    assert torch.isfinite(c).all()
    assert c[2].abs().max() == 0


@pytest.mark.parametrize(("n", "d"), [(6, 3), (3, 6)])
def test_barlow_twins_loss__gradient_equals_finite_differences(n, d):
    z0, z1 = pair(n, d)
    z0.requires_grad_()
    z1.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: barlow_twins_loss(a, b, off_diagonal=0.1), (z0, z1)
    )
