import math

import pytest
import torch

from scoutview.nn.losses.swapped import swapped_prediction


def example(views=4, n=3, k=5):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(views, n, k, generator=generator, dtype=torch.float64)
    assignments = torch.rand(2, n, k, generator=generator, dtype=torch.float64)
    return scores, assignments / assignments.sum(dim=2, keepdim=True)


def by_hand(scores, assignments, assigned, temperature):
    """Equations 2 and 6 of arXiv:2006.09882, one term at a time."""
    views, n, k = scores.shape
    total = 0.0
    for a, q in zip(assigned, assignments, strict=True):
        for v in range(views):
            if v == a:
                continue
            for b in range(n):
                denominator = sum(math.exp(float(s) / temperature) for s in scores[v, b])
                for j in range(k):
                    p = math.exp(float(scores[v, b, j]) / temperature) / denominator
                    total -= float(q[b, j]) * math.log(p) / n
    return total


@pytest.mark.parametrize("assigned", [(0, 1), (2, 0)])
def test_swapped_prediction__equals_the_paper_equation(assigned):
    scores, q = example()
    expected = by_hand(scores, q, assigned, 0.1)
    actual = swapped_prediction(scores, q, assigned, temperature=0.1)
    assert float(actual) == pytest.approx(expected, rel=1e-12)


def test_swapped_prediction__mean_divides_by_the_pairs():
    scores, q = example()
    total = swapped_prediction(scores, q, (0, 1), temperature=0.1)
    mean = swapped_prediction(scores, q, (0, 1), temperature=0.1, reduction="mean")
    assert float(mean) == pytest.approx(float(total) / 6)


def test_swapped_prediction__of_equal_scores_is_the_chance_level():
    scores, q = example()
    flat = torch.zeros_like(scores)
    actual = swapped_prediction(flat, q, (0, 1), temperature=0.1)
    assert float(actual) == pytest.approx(6 * math.log(5))
