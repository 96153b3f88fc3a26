"""Prototypes: one clustering of the training set, with the concentration of each cluster."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from scoutview.base.randomness import CLUSTERS, NEGATIVES
from scoutview.nn.gather import all_gather, world_size
from scoutview.nn.kmeans import Clusters, chunk_rows, kmeans
from scoutview.nn.losses.clusters import proto_nce
from scoutview.nn.precision import full_precision
from scoutview.nn.seeds import Seed
from scoutview.nn.sweep import merged

_COPIES = 1e-3
"""Below this share of the widest cluster, the members of a cluster count as copies of one image."""


@torch.no_grad()
@full_precision
def concentration(
    rows: Tensor,
    clusters: Clusters,
    *,
    temperature: float,
    smoothing: float = 10.0,
    percentiles: tuple[float, float] | None = None,
) -> Tensor:
    """Estimate how tightly the members of each cluster stand together: small is tight.

    phi = sum of |v - c| / (Z ln(Z + smoothing)) over the Z members v of the cluster around c,
    scaled so that the mean over clusters is the temperature.

    A cluster of one image, of copies of one image, or of none says nothing of its width (phi would
    be 0, and the loss divides by it); it takes the largest phi. If that holds for all clusters, all
    get the temperature, where the published code gives NaN.

    Args:
        rows: Rows of this process, (n, D).
        clusters: Their clustering.
        temperature: Mean of the result, > 0.
        smoothing: Keeps small clusters from a large estimate; alpha in the paper.
        percentiles: Clip to these percentiles, in [0, 100], before scaling (salesforce/PCL: 10 and
            90).

    Returns:
        (K,), the same in every process.

    Source: Li et al., 2020, arXiv:2005.04966, eq. 12; salesforce/PCL, main_pcl.py.
    """
    distance = rows.new_empty(len(rows))
    step = chunk_rows(rows.shape[1], rows.device)
    for begin in range(0, len(rows), step):
        place = slice(begin, begin + step)
        centre = clusters.centroids[clusters.assignment[place]]  # (chunk, D)
        distance[place] = (rows[place] - centre).norm(dim=1)
    total = rows.new_zeros(len(clusters.counts)).index_add_(0, clusters.assignment, distance)
    if world_size() > 1:
        dist.all_reduce(total)
    size = clusters.counts.to(total)  # (K,)
    phi = total / (size.clamp_min(1) * (size + smoothing).log())
    phi = torch.where(size > 1, phi, 0.0)
    widest = phi.max()
    phi = torch.where(phi > _COPIES * widest, phi, widest)
    if percentiles is not None:
        low, high = (torch.quantile(phi, p / 100) for p in percentiles)
        phi = phi.clamp(low, high)
    mean = phi.mean()
    return torch.where(mean > 0, temperature * phi / mean, temperature)


class PrototypeSet(nn.Module):
    """One clustering of the training set. All of it is state: a resumed run goes on with it."""

    prototypes: Tensor
    """Centroids at unit length, (K, D)."""
    concentration: Tensor
    """Temperature of each prototype, (K,)."""
    assignment: Tensor
    """Prototype of each image of the training set, (N,) int64; -1 before the first clustering."""
    largest: Tensor
    """Share of the images that the largest cluster holds, scalar."""

    def __init__(self, clusters: int, dim: int, images: int) -> None:
        """Make room.

        Args:
            clusters: Number of clusters, K.
            dim: Width of a prototype, D.
            images: Images in the training set, N.
        """
        super().__init__()
        self.seed = Seed()
        self.register_buffer("prototypes", torch.zeros(clusters, dim))
        self.register_buffer("concentration", torch.ones(clusters))
        self.register_buffer("assignment", torch.full((images,), -1))
        self.register_buffer("largest", torch.zeros(()))

    def __len__(self) -> int:
        return len(self.prototypes)

    @torch.no_grad()
    def fit(
        self,
        rows: Tensor,
        features: Tensor,
        *,
        epoch: int,
        temperature: float,
        rounds: int,
        restarts: int,
        percentiles: tuple[float, float] | None,
    ) -> None:
        """Cluster the training set anew.

        Args:
            rows: Rows of the training set that this process has, (n,) int64.
            features: Their features, unit vectors, (n, D).
            epoch: Each epoch has its own draws.
            temperature: Mean concentration, > 0.
            rounds: Rounds of k-means.
            restarts: Clusterings of which the best is taken.
            percentiles: See `concentration`.
        """
        found = kmeans(
            features,
            len(self),
            rounds=rounds,
            restarts=restarts,
            empty="split",
            seed=self.seed.number(CLUSTERS, epoch),
        )
        phi = concentration(features, found, temperature=temperature, percentiles=percentiles)
        self.prototypes.copy_(F.normalize(found.centroids, dim=1))
        self.concentration.copy_(phi)
        self.assignment.copy_(
            merged(rows, found.assignment, into=torch.full_like(self.assignment, -1))
        )
        self.largest.copy_(found.counts.max() / found.counts.sum())

    def loss(
        self, query: Tensor, rows: Tensor, *, step: int, negatives: int, in_batch: bool
    ) -> Tensor:
        """Compute ProtoNCE of a batch.

        Args:
            query: Unit vectors, (B, D).
            rows: Row of each image in the training set, (B,) int64.
            step: Each step has its own negatives.
            negatives: Other prototypes that a query is compared with, at most.
            in_batch: See `proto_nce`.

        Returns:
            Scalar.
        """
        own = self.assignment[rows]  # (B,)
        drawn = self.draw(own, step=step, count=negatives, outside_batch=in_batch)
        return proto_nce(query, self.prototypes, self.concentration, own, drawn, in_batch=in_batch)

    @torch.no_grad()
    def draw(self, own: Tensor, *, step: int, count: int, outside_batch: bool) -> Tensor:
        """Draw prototypes without replacement, the same in every process.

        Args:
            own: Prototypes of the images of this process, (B,) int64.
            step: Each step has its own draws.
            count: Prototypes to draw; fewer if there are not as many.
            outside_batch: Draw none that an image of the global batch belongs to.

        Returns:
            Numbers of prototypes, (r,) int64; all of them if `count` is not less.
        """
        taken = all_gather(own) if outside_batch else own[:0]  # (world B,)
        count = min(count, len(self) - len(taken)) if outside_batch else min(count, len(self))
        if count >= len(self):
            return torch.arange(len(self), device=own.device)
        device = own.device
        keys = torch.rand(len(self), generator=self.seed.stream(NEGATIVES, step), device=device)
        keys[taken] = 2.0  # behind all others
        return keys.topk(max(0, count), largest=False).indices

    def columns(self, batch: int, negatives: int, *, in_batch: bool) -> int:
        """Count the prototypes that a query is told apart from, its own among them.

        Args:
            batch: Images in the global batch.
            negatives: As given to `loss`.
            in_batch: As given to `loss`.
        """
        if in_batch:
            return batch + max(0, min(negatives, len(self) - batch))
        return len(self) if negatives >= len(self) else 1 + negatives
