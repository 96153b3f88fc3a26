"""Pixel propagation: every cell of a feature map becomes a mixture of the cells like it."""

import torch.nn.functional as F
from torch import Tensor, nn

from scoutview.nn.heads import mlp
from scoutview.nn.precision import full_precision


class PixelPropagation(nn.Module):
    """y_i = sum_j max(cos(x_i, x_j), 0)^gamma g(x_j), with g of zero to two linear layers.

    Source: Xie et al., 2021, arXiv:2011.10043, eq. 3 and 4.
    """

    def __init__(
        self,
        dim: int,
        *,
        exponent: float = 2.0,
        layers: int = 1,
        normalise_values: bool = False,
        clamp: float = 0.0,
    ) -> None:
        """Make the transformation g.

        Args:
            dim: Width of a cell, D.
            exponent: Sharpness of the similarity, gamma > 0.
            layers: Linear layers of g; 0 passes cells on, 2 have batch norm and ReLU between them.
            normalise_values: Bring g(x_j) to length 1 (zdaxie/PixPro; the paper does not).
            clamp: Smaller cosines count as this one, in [0, 1); 0 in the paper.
        """
        super().__init__()
        self.transform: nn.Module = nn.Identity()
        if layers:
            self.transform = mlp(dim, dim, dim, layers=layers, batch_norm=True)
        self.exponent = exponent
        self.normalise_values = normalise_values
        self.clamp = clamp

    def forward(self, cells: Tensor) -> Tensor:
        """Propagate.

        Args:
            cells: (B, P, D).

        Returns:
            Smoothed cells, not normalised, (B, P, D).
        """
        values = self.transform(cells.flatten(0, 1)).view_as(cells)  # (B, P, D)
        return _mixed(cells, values, self.exponent, self.normalise_values, self.clamp)


@full_precision
def _mixed(
    cells: Tensor, values: Tensor, exponent: float, normalise_values: bool, clamp: float
) -> Tensor:
    if normalise_values:
        values = F.normalize(values, dim=2)
    cells = F.normalize(cells, dim=2)
    alike = (cells @ cells.transpose(1, 2)).clamp_min(clamp) ** exponent  # (B, P, P)
    return alike @ values
