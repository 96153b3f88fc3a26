import math

import pytest
import torch
import torch.nn.functional as F

from scoutview.nn.losses.clusters import cluster_cross_entropy, proto_nce, proto_nce_logits


def units(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


def log_share(scores, own):
    """Logarithm of the softmax of one entry, one exponential at a time."""
    return math.log(math.exp(scores[own]) / sum(math.exp(s) for s in scores))


def test_cluster_cross_entropy__equals_the_sum_written_slowly():
    views, prototypes = units(3, 4, 5), [units(6, 5, seed=1), units(2, 5, seed=2)]
    labels = torch.tensor([[0, 5, -100, 3], [1, 0, 1, 1]])
    heads = []
    for weights, label in zip(prototypes, labels.tolist(), strict=True):
        losses = [
            -log_share([float(view[i] @ w) / 0.1 for w in weights], label[i])
            for view in views
            for i in range(4)
            if label[i] >= 0
        ]
        heads.append(sum(losses) / len(losses))
    ours = cluster_cross_entropy(views, prototypes, labels, temperature=0.1)
    assert float(ours) == pytest.approx(sum(heads) / 2, rel=1e-12)


def test_cluster_cross_entropy__is_zero_with_zero_gradient_without_labels():
    views = units(2, 3, 4).requires_grad_()
    loss = cluster_cross_entropy(views, [units(5, 4)], torch.full((1, 3), -100), temperature=0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(views.grad.abs().max()) == 0.0


def test_proto_nce__equals_equation_11_written_slowly():
    query, prototypes = units(4, 5), units(7, 5, seed=1)
    phi = torch.linspace(0.1, 0.4, 7, dtype=torch.float64)
    own, negatives = torch.tensor([3, 0, 3, 6]), torch.tensor([0, 3, 5])
    losses = []
    for q, s in zip(query, own.tolist(), strict=True):
        others = [j for j in negatives.tolist() if j != s]  # no prototype repels its own images
        scores = [float(q @ prototypes[j]) / float(phi[j]) for j in [s, *others]]
        losses.append(-log_share(scores, 0))
    ours = proto_nce(query, prototypes, phi, own, negatives)
    assert float(ours) == pytest.approx(sum(losses) / 4, rel=1e-12)


def test_proto_nce__leaves_out_images_without_a_prototype():
    query, prototypes, phi = units(4, 5), units(7, 5, seed=1), torch.full((7,), 0.2).double()
    negatives = torch.arange(7)
    part = proto_nce(query[:2], prototypes, phi, torch.tensor([3, 0]), negatives)
    whole = proto_nce(query, prototypes, phi, torch.tensor([3, 0, -1, -1]), negatives)
    torch.testing.assert_close(whole, part)
    none = proto_nce(query, prototypes, phi, torch.full((4,), -1), negatives)
    assert float(none) == 0.0


def test_proto_nce_logits__of_the_batch_keep_a_duplicate_as_a_negative():
    query, prototypes, phi = units(3, 5), units(7, 5, seed=1), torch.full((7,), 0.2).double()
    own = torch.tensor([2, 4, 2])
    logits, column = proto_nce_logits(query, prototypes, phi, own, torch.tensor([6]), in_batch=True)
    assert column.tolist() == [0, 1, 2]
    torch.testing.assert_close(logits[:, 0], logits[:, 2])
    torch.testing.assert_close(logits, query @ prototypes[[2, 4, 2, 6]].T / 0.2)
