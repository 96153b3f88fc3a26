import torch
from torch import nn

from scoutview.nn.heads import mlp


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
