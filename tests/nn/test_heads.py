import torch
from torch import nn

from scoutview.nn.heads import UnitPrototypes, mlp


def test_mlp__has_the_layers_of_each_paper():
    kinds = [type(m) for m in mlp(4, 8, 2, batch_norm=True)]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    barlow = mlp(4, 8, 2, layers=3, batch_norm=True, hidden_bias=False, out_bias=False)
    linear = [m for m in barlow if isinstance(m, nn.Linear)]
    assert [m.bias for m in linear] == [None] * 3
    assert [m.out_features for m in linear] == [8, 8, 2]


def test_mlp__of_one_layer_is_linear():
    assert len(mlp(4, 8, 2, layers=1)) == 1


def test_mlp__out_batch_norm_standardises_without_parameters():
    head = mlp(4, 8, 3, out_batch_norm=True)
    out = head(torch.randn(64, 4))
    assert out.mean(dim=0).abs().max() < 1e-5
    assert list(head[-1].parameters()) == []


def test_unit_prototypes__give_cosines_whatever_the_lengths():
    torch.manual_seed(0)
    prototypes, x = UnitPrototypes(4, 3), torch.randn(5, 4)
    with torch.no_grad():
        prototypes.weight.mul_(7.0)
        found = prototypes(3.0 * x)
    for i in range(5):
        for k in range(3):
            cosine = torch.cosine_similarity(x[i], prototypes.weight[k], dim=0)
            torch.testing.assert_close(found[i, k], cosine.detach())


def test_unit_prototypes__frozen_pass_the_gradient_on_and_keep_none():
    prototypes, x = UnitPrototypes(4, 3), torch.randn(5, 4, requires_grad=True)
    prototypes(x, frozen=True).square().sum().backward()
    assert float(prototypes.weight.grad.abs().max()) == 0
    assert float(x.grad.abs().max()) > 0
