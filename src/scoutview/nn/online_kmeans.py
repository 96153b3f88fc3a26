"""Clusters of a memory bank that move with every step: mini-batch k-means with exact means."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.nn.banks import MemoryBank
from scoutview.nn.buckets import Buckets
from scoutview.nn.gather import all_sum, rank, world_size
from scoutview.nn.kmeans import kmeans
from scoutview.nn.precision import full_precision
from scoutview.nn.screening import Screening

_BLOCK = 65536
_HALVING_ROUNDS = 10
_SCORES = 2**23
"""Scores of vectors with centroids that are held at once."""


class OnlineKMeans(nn.Module):
    """Labels of all rows of a bank, and centroids that are the means of their rows.

    A batch changes B rows: its old vectors leave the running sums, its new ones enter, which costs
    O(B D) beside the search for the nearest centroid. `refresh` sums all rows anew against the
    rounding that this collects. The state is the same in every process.

    Source: Xie et al., 2022, arXiv:2008.11702, section 4.1; small clusters as in
    open-mmlab/mmselfsup, interclr_memory.py.
    """

    labels: Tensor
    """Cluster of each row, (N,) int32."""
    centroids: Tensor
    """Mean of each cluster's rows, (C, D), not of unit length; the last one of an empty cluster."""
    sums: Tensor
    """Sum of each cluster's rows, (C, D)."""
    counts: Tensor
    """Rows of each cluster, (C,) int64."""
    offsets: Tensor
    """What the score of each centroid has beside the dot product, (C,)."""

    def __init__(
        self,
        length: int,
        dim: int,
        clusters: int,
        *,
        smallest: int = 1,
        smallest_half: int | None = None,
        distance: Literal["euclidean", "dot"] = "euclidean",
    ) -> None:
        """Deal the rows to clusters in turn; `start` or `cluster` gives them their real labels.

        Args:
            length: Rows of the bank, N.
            dim: Width of a row, D.
            clusters: Number of clusters, C.
            smallest: Clusters with fewer rows are dissolved by `repair`.
            smallest_half: Fewest rows of a half of a cluster; None is `smallest`, so that no half
                is dissolved in turn, where open-mmlab/mmselfsup has 1.
            distance: Nearest by the "euclidean" distance (paper, eq. 3), or by the "dot" product
                with centroids as long as they are (open-mmlab/mmselfsup).

        Raises:
            ConfigError: There are not enough rows for clusters of this size.
        """
        super().__init__()
        most = max(1, length // max(1, smallest))
        if not 1 <= clusters <= most:
            raise ConfigError(
                f"{length} images make at most {most} clusters of {smallest}, got {clusters}; lower"
                " clusters or min_cluster."
            )
        self.clusters, self.smallest, self.distance = clusters, smallest, distance
        self.smallest_half = smallest if smallest_half is None else smallest_half
        self.register_buffer("labels", (torch.arange(length) % clusters).int())
        self.register_buffer("centroids", torch.zeros(clusters, dim))
        self.register_buffer("sums", torch.zeros(clusters, dim))
        self.register_buffer("counts", torch.zeros(clusters, dtype=torch.int64))
        self.register_buffer("offsets", torch.zeros(clusters))
        self.buckets = Buckets(length, clusters)
        self._scores = torch.empty(0)
        self._screening = Screening()

    # --- whole passes over the bank: at the start, between epochs, every hundred steps ---

    @torch.no_grad()
    def start(self, bank: MemoryBank, labels: Tensor) -> None:
        """Take labels as given, (N,) integers in [0, C), and average the rows."""
        self.labels.copy_(labels)
        self.refresh(bank)

    @torch.no_grad()
    def cluster(self, bank: MemoryBank, *, rounds: int = 20, seed: int = 0) -> None:
        """Cluster the whole bank by k-means; every process takes its share of the rows."""
        numbers, rows = bank.owned()
        if not bank.sharded and world_size() > 1:
            numbers = numbers[rank() :: world_size()]
            rows = rows[numbers]
        found = kmeans(
            rows.to(self.sums), self.clusters, rounds=rounds, empty="split", seed=seed,
            numbers=numbers,
        )  # fmt: skip
        labels = torch.zeros_like(self.labels)
        labels[numbers] = found.assignment.int()
        self.start(bank, all_sum(labels))

    @torch.no_grad()
    def refresh(self, bank: MemoryBank) -> None:
        """Sum all rows anew and sort them into buckets anew."""
        numbers, rows = bank.owned()
        labels = self.labels[numbers].long()
        self.sums.zero_()
        self.counts.zero_()
        for begin in range(0, len(rows), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            _add(self.sums, labels[part], rows[part].to(self.sums))
            self.counts.index_add_(0, labels[part], torch.ones_like(labels[part]))
        if bank.sharded:
            self.sums.copy_(all_sum(self.sums))
            self.counts.copy_(all_sum(self.counts))
        self._average(torch.arange(self.clusters, device=labels.device))
        self.buckets.rebuild(self.labels)

    def _average(self, clusters: Tensor) -> None:
        """Set centroids of some clusters, which may repeat, to the means of their rows."""
        counts = self.counts.index_select(0, clusters)[:, None]
        means = self.sums.index_select(0, clusters) / counts.clamp_min(1)
        last = self.centroids.index_select(0, clusters)
        centroids = torch.where(counts > 0, means, last)
        self.centroids.index_copy_(0, clusters, centroids)
        if self.distance == "euclidean":
            self.offsets.index_copy_(0, clusters, -0.5 * centroids.square().sum(dim=1))

    # --- every step ---

    @torch.no_grad()
    @full_precision
    def assign(self, vectors: Tensor) -> Tensor:
        """Find the nearest centroid of each vector, (B, D) to (B,) int64."""
        if self.distance == "euclidean" and self._screening.pays(vectors, self.centroids):
            screened = self._screening.nearest(vectors, self.centroids, self.offsets)
            if screened is not None:
                return screened
        step = max(1, _SCORES // self.clusters)
        found = [
            first_largest(torch.addmm(self.offsets, part, self.centroids.T, out=self._room(part)))
            for part in torch.split(vectors, step)
        ]
        return torch.cat(found)

    def _room(self, vectors: Tensor) -> Tensor:
        """Memory for scores, kept from step to step: new memory costs as much as the product."""
        shape, kept = (len(vectors), self.clusters), self._scores
        if (kept.shape, kept.dtype, kept.device) != (shape, vectors.dtype, vectors.device):
            self._scores = vectors.new_empty(shape)
        return self._scores

    @torch.no_grad()
    def update(self, rows: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """Relabel the rows of a step and move the centroids that they leave and join.

        Args:
            rows: Rows of the global batch, (B,) int64; one that stands twice counts once.
            old: What the bank held of them before the step, (B, D).
            new: What it holds now, (B, D).

        Returns:
            Share of the rows whose label changed, scalar.
        """
        rows, by = rows.sort(stable=True)
        old, new = (x.index_select(0, by).to(self.sums) for x in (old, new))
        last = torch.searchsorted(rows, rows, right=True) - 1  # (B,) last place of the same row
        once = last == torch.arange(len(rows), device=rows.device)
        before, after = self.labels[rows].long(), self.assign(new)[last]
        moved = once & (before != after)
        weight = once.to(new)[:, None]
        _add(self.sums, before, -weight * old)
        _add(self.sums, after, weight * new)
        self.counts.index_add_(0, before, -moved.long()).index_add_(0, after, moved.long())
        self.labels[rows] = after.int()
        self._average(torch.cat([before, after]))
        self.buckets.move(rows, before, after, moved)
        return moved.sum().to(new) / once.sum()

    # --- small clusters ---

    @torch.no_grad()
    def repair(self, bank: MemoryBank) -> None:
        """Redistribute small clusters and sum all rows anew. Not for every step."""
        self.redistribute(bank)
        self.refresh(bank)

    @torch.no_grad()
    def redistribute(self, bank: MemoryBank) -> None:
        """Dissolve clusters that are too small, and give each half of a large one.

        Their rows go to the nearest of the other clusters; then the largest clusters are halved
        until none is empty. Of all centroids only those of halves move, so `refresh` should
        follow. Waits for the device.
        """
        small = self.counts < self.smallest
        small[self.counts.argmax()] = False  # somebody has to take the rows
        if not bool(small.any()):
            return
        lost = small[self.labels.long()].nonzero()[:, 0]
        offsets = torch.where(small, -torch.inf, self.offsets)
        for part in torch.split(lost, _BLOCK // 8) if len(lost) else ():
            vectors = bank.read(part, same=True).to(self.sums)
            self.labels[part] = torch.addmm(offsets, vectors, self.centroids.T).argmax(dim=1).int()
        labels = self.labels.long()
        self.counts.zero_().index_add_(0, labels, torch.ones_like(labels))
        empty = small.nonzero()[:, 0]
        while len(empty):
            sizes, order = self.counts.sort(descending=True, stable=True)
            # What is more than half of the largest may come before any of its halves does.
            halved = order[(sizes > sizes[0] // 2) & (sizes > 1)][: len(empty)]
            if not len(halved):
                break
            empty = empty[self._halve(bank, halved, empty[: len(halved)]) :]

    def _halve(self, bank: MemoryBank, halved: Tensor, free: Tensor) -> int:
        """Move one half of each of H clusters to a free one, as long as the largest comes next.

        Args:
            bank: The vectors.
            halved: Clusters, largest first, (H,).
            free: Empty clusters, (H,).

        Returns:
            Clusters that were halved: those behind them are smaller than a half that was made.
        """
        number = self.labels.new_full((self.clusters,), -1).long()
        number[halved] = torch.arange(len(halved), device=halved.device)
        group = number[self.labels.long()]  # (N,)
        rows = (group >= 0).nonzero()[:, 0]
        group = group[rows]
        vectors = bank.read(rows, same=True).to(self.sums)
        second = halves(vectors, group, len(halved), smallest=self.smallest_half)
        moved, size = _sum_by(second.long(), group, len(halved)), self.counts[halved]
        made = torch.maximum(moved, size - moved).cummax(0).values
        done = 1 + int((size[1:] >= made[:-1]).long().cumprod(0).sum())
        halved, free, kept = halved[:done], free[:done], group < done
        vectors, rows, group, second = vectors[kept], rows[kept], group[kept], second[kept]
        self.labels[rows[second]] = free[group[second]].int()
        target = torch.cat([halved, free])
        group = group + done * second.long()
        self.sums[target] = _sum_by(vectors, group, len(target))
        self.counts[target] = _sum_by(torch.ones_like(group), group, len(target))
        self._average(target)
        return done

    def largest_share(self) -> Tensor:
        """Give the share of all rows that the largest cluster holds, scalar."""
        return self.counts.max() / len(self.labels)


def first_largest(scores: Tensor) -> Tensor:
    """Find the first largest entry of each row, as `argmax`, at a tenth of its time on a CPU.

    The maxima of blocks come at the speed of the memory; only the winner's block is searched.

    Args:
        scores: (B, K), contiguous.

    Returns:
        Its column, (B,) int64.
    """
    width = max(1, math.isqrt(scores.shape[1]))
    whole = scores.shape[1] // width * width
    peaks = [scores[:, :whole].reshape(len(scores), -1, width).amax(dim=2)]  # (B, K / width)
    if whole < scores.shape[1]:
        peaks.append(scores[:, whole:].amax(dim=1, keepdim=True))
    start = width * torch.cat(peaks, dim=1).argmax(dim=1, keepdim=True)  # (B, 1)
    columns = start + torch.arange(width, device=scores.device)  # (B, width)
    columns.clamp_(max=scores.shape[1] - 1)
    inside = scores.gather(1, columns).argmax(dim=1, keepdim=True)
    return columns.gather(1, inside)[:, 0]


def halves(vectors: Tensor, group: Tensor, groups: int, *, smallest: int = 1) -> Tensor:
    """Cut each group in two by 2-means; where that leaves too small a half, in the middle.

    2-means starts from the two ends of the group, and from the means below and above its middle;
    the tighter result counts.

    Args:
        vectors: (R, D).
        group: Group of each vector, (R,) int64 in [0, G); every group has at least two.
        groups: Number of groups, G.
        smallest: Fewest vectors of a half, where the group has twice as many.

    Returns:
        Which vectors make the second half, (R,) bool; neither half of a group is empty.
    """
    sizes = _sum_by(torch.ones_like(group), group, groups)  # (G,)
    means = _sum_by(vectors, group, groups) / sizes[:, None]
    first = vectors[_last_by((vectors - means[group]).square().sum(dim=1), group, sizes)]
    second = vectors[_last_by((vectors - first[group]).square().sum(dim=1), group, sizes)]
    order = _order_by(_beyond_middle(vectors, first[group], second[group]), group)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    upper = place >= (sizes.cumsum(0) - sizes // 2)[group]  # (R,)
    by_ends, tight = _two_means(vectors, group, sizes, first, second)
    by_middle, tighter = _two_means(vectors, group, sizes, *_means(vectors, group, sizes, upper))
    best = torch.where((tighter > tight)[group], by_middle, by_ends)
    many = _sum_by(best.long(), group, groups)
    bad = torch.minimum(many, sizes - many) < (sizes // 2).clamp_max(smallest)  # (G,)
    return torch.where(bad[group], upper, best)


def _two_means(
    vectors: Tensor, group: Tensor, sizes: Tensor, first: Tensor, second: Tensor
) -> tuple[Tensor, Tensor]:
    """Improve two centres of each group, (G, D); sides, (R,) bool, and how tight they are, (G,)."""
    for _ in range(_HALVING_ROUNDS):
        side = _beyond_middle(vectors, first[group], second[group]) > 0
        first, second = _means(vectors, group, sizes, side)
    side = _beyond_middle(vectors, first[group], second[group]) > 0
    many = _sum_by(side.long(), group, len(sizes))
    # the spread within two halves falls as the distance of their means grows
    gap = (first - second).square().sum(dim=1)
    return side, gap * many * (sizes - many) / sizes


def _means(vectors: Tensor, group: Tensor, sizes: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Average both sides of each group, (G, D) each; an empty side has the mean of the group."""
    many = _sum_by(side.long(), group, len(sizes))[:, None]  # (G, 1)
    few = sizes[:, None] - many
    there = _sum_by(vectors * side[:, None], group, len(sizes))
    whole = _sum_by(vectors, group, len(sizes))
    mean = whole / sizes[:, None]
    first = torch.where(few > 0, (whole - there) / few.clamp_min(1), mean)
    return first, torch.where(many > 0, there / many.clamp_min(1), mean)


def _beyond_middle(vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """How far each vector lies towards `second` from the middle between the two, (R,)."""
    return ((vectors - 0.5 * (first + second)) * (second - first)).sum(dim=1)


def _order_by(values: Tensor, group: Tensor) -> Tensor:
    """Order that brings values to rise within each group, group after group, (R,)."""
    order = values.argsort(stable=True)
    return order[group[order].argsort(stable=True)]


def _last_by(values: Tensor, group: Tensor, sizes: Tensor) -> Tensor:
    """Find the largest value of each group, (G,)."""
    return _order_by(values, group)[sizes.cumsum(0) - 1]


def _sum_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    return _add(values.new_zeros(groups, *values.shape[1:]), group, values)


def _add(target: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Add rows in place, in an order that is always the same, so that all processes agree."""
    if target.is_cuda:  # index_add_ would add in the order in which threads come
        return target.index_put_((index,), values, accumulate=True)
    return target.index_add_(0, index, values)
