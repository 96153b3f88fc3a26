"""What some views of every image looked like when training last saw them."""

import torch
from torch import Tensor, nn

from scoutview.nn.gather import all_gather, rank, world_size
from scoutview.nn.sweep import merged


class CropMemory(nn.Module):
    """One row per image of the training set for each of a few views, filled while training runs.

    Every process holds the whole memory, so it is saved with the method; each clusters its share.

    Source: Caron et al., 2020, arXiv:2006.09882, appendix; facebookresearch/swav,
    main_deepclusterv2.py (`init_memory` and the memory of `train`).
    """

    rows: Tensor
    """Unit vectors, (A, N, D)."""
    filled: Tensor
    """Whether an image has its rows, (N,) bool."""

    def __init__(self, views: int, images: int, dim: int) -> None:
        """Make room for zeros.

        Args:
            views: Remembered views, A.
            images: Images in the training set, N.
            dim: Width of a row, D.
        """
        super().__init__()
        self.register_buffer("rows", torch.zeros(views, images, dim))
        self.register_buffer("filled", torch.zeros(images, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.filled)

    @torch.no_grad()
    def fill(self, rows: Tensor, values: Tensor) -> None:
        """Start from one vector per image, taken for all views.

        Args:
            rows: Rows of the training set that this process has, (n,) int64; processes may have
                unequally many.
            values: Unit vectors, (n, D).
        """
        self.rows.copy_(merged(rows, values, into=self.rows[0]).expand_as(self.rows))
        self.filled.copy_(merged(rows, torch.ones_like(rows), into=self.filled.long()) > 0)

    @torch.no_grad()
    def write(self, rows: Tensor, values: Tensor) -> None:
        """Remember a batch. An image that stands in it twice leaves its last rows.

        Args:
            rows: Rows of this process, (B,) int64; each process has as many.
            values: Unit vectors, (A, B, D).
        """
        rows = all_gather(rows)  # (world B,)
        values = all_gather(values.transpose(0, 1).to(self.rows))  # (world B, A, D)
        ordered, order = rows.sort(stable=True)
        last = order[torch.searchsorted(ordered, rows, right=True) - 1]  # (world B,)
        self.rows.index_copy_(1, rows, values[last].transpose(0, 1))
        self.filled.index_fill_(0, rows, True)

    def share(self, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give this process's share of the filled rows, for clustering.

        Args:
            view: One of the remembered views, in [0, A).

        Returns:
            Rows of the training set, (n,) int64; their vectors, (n, D); and their positions among
            all filled rows, (n,) int64.
        """
        rows = self.filled.nonzero().squeeze(1)
        positions = torch.arange(len(rows), device=rows.device).tensor_split(world_size())[rank()]
        mine = rows[positions]
        return mine, self.rows[view, mine], positions
