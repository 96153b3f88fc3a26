"""Projectors, predictors and classifiers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoutview.nn.losses.swapped import prototype_scores
from scoutview.nn.precision import unit


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
    gelu: bool = False,
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
        gelu: Put GELU in place of every ReLU.

    Returns:
        A module from (B, in_dim) to (B, out_dim).
    """
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts.append(nn.Linear(in_dim, hidden_dim, bias=hidden_bias))
        if batch_norm:
            parts.append(nn.BatchNorm1d(hidden_dim))
        parts.append(nn.GELU() if gelu else nn.ReLU(inplace=True))
        in_dim = hidden_dim
    parts.append(nn.Linear(in_dim, out_dim, bias=out_bias))
    if out_batch_norm:
        parts.append(nn.BatchNorm1d(out_dim, affine=False))
    return nn.Sequential(*parts)


class UnitPrototypes(nn.Module):
    """Cosine similarity to learned prototypes: a linear layer with rows of length 1, without bias.

    Source: Salimans & Kingma, 2016, arXiv:1602.07868 (weight norm with the length held at 1).
    """

    def __init__(self, dim: int, count: int) -> None:
        """Draw the prototypes.

        Args:
            dim: Width of the input, D.
            count: Number of prototypes, K.
        """
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(count, dim), dim=1))  # (K, D)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:
        """Compare rows with the prototypes.

        Args:
            x: (B, D); need not be normalised.
            frozen: Give the prototypes a gradient of zero rather than none, because data-parallel
                training waits for one.

        Returns:
            Cosines, (B, K), in at least float32.
        """
        weight = self.weight.detach() + 0.0 * self.weight if frozen else self.weight
        return prototype_scores(unit(x), unit(weight))
