"""The head that reads the patches of a cut image as one image."""

import torch
from torch import Tensor, nn

from scoutview.nn.heads import mlp


class JigsawHead(nn.Module):
    """Projects every patch by itself, then all of them together.

    The patches come in random order, so the result cannot say where each of them was.

    Source: Misra and van der Maaten, 2019, arXiv:1912.01991, section 3.2; HobbitLong/PyContrast,
    pycontrast/networks/util.py.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, out_dim: int, *, patches: int, layers: int = 1
    ) -> None:
        """Make a head.

        Args:
            in_dim: Width of a patch's features.
            hidden_dim: Width between the layers of the projection of a patch.
            out_dim: Width of a projected patch and of the result.
            patches: Patches of an image, P.
            layers: Linear layers of the projection of a patch: 1 (PIRL) or 2 (InfoMin).
        """
        super().__init__()
        self.patches = patches
        self.patch = mlp(in_dim, hidden_dim, out_dim, layers=layers)
        self.joint = nn.Linear(patches * out_dim, out_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Project the patches of B images.

        Args:
            features: Features, (P B, in_dim): the first patch of every image, then the second.

        Returns:
            One projection per image, (B, out_dim).
        """
        parts = self.patch(features).chunk(self.patches)  # P times (B, out_dim)
        out: Tensor = self.joint(torch.cat(parts, dim=1))
        return out
