"""Projectors, predictors and classifiers."""

from torch import nn


def mlp(
    in_dim: int,
    hidden_dim: int,
    out_dim: int,
    *,
    layers: int = 2,
    batch_norm: bool = False,
    hidden_bias: bool = True,
    out_bias: bool = True,
    out_batch_norm: bool = False,
) -> nn.Sequential:
    """Build linear layers with ReLU between them.

    Args:
        in_dim: Width of the input.
        hidden_dim: Width between the layers.
        out_dim: Width of the output.
        layers: Number of linear layers, >= 1; one layer has no hidden width.
        batch_norm: Put batch norm before every ReLU.
        hidden_bias: Give the hidden linear layers a bias.
        out_bias: Give the last linear layer a bias.
        out_batch_norm: Put batch norm without scale and shift after the last layer.

    Returns:
        A module from (B, in_dim) to (B, out_dim).
    """
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts.append(nn.Linear(in_dim, hidden_dim, bias=hidden_bias))
        if batch_norm:
            parts.append(nn.BatchNorm1d(hidden_dim))
        parts.append(nn.ReLU(inplace=True))
        in_dim = hidden_dim
    parts.append(nn.Linear(in_dim, out_dim, bias=out_bias))
    if out_batch_norm:
        parts.append(nn.BatchNorm1d(out_dim, affine=False))
    return nn.Sequential(*parts)
