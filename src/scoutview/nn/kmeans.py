"""k-means over the rows of all processes, as matrix products of chunks of rows with centroids."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from scoutview.base.errors import ConfigError
from scoutview.base.randomness import CLUSTERS, generator
from scoutview.nn.gather import rank, world_size
from scoutview.nn.precision import full_precision

Seeding = Literal["k-means++", "random"]
"""Where centroids start: spread over the rows (Arthur & Vassilvitskii, 2007), or random rows."""

Empty = Literal["keep", "split"]
"""What happens to a centroid without rows: it stays, or it takes half of a large cluster."""

_POOL: Final = 65_536
"""Rows, or 4 per cluster if that is more, from which k-means++ chooses; all of fewer rows."""
_BLOCK: Final = 64
"""Centroids whose scores are searched together."""
_DRAWN: Final = 256
"""Rows whose weights are summed before one is drawn."""
_NUDGE: Final = 2.0**-10
"""Relative distance of the two halves of a split cluster, as in faiss."""


@dataclass(frozen=True)
class Clusters:
    """A clustering. Centroids, counts and spread are the same in every process."""

    centroids: Tensor
    """(K, D); of unit length if spherical."""
    assignment: Tensor
    """Cluster of each row of this process, (n,) int64."""
    counts: Tensor
    """Rows of all processes in each cluster, (K,) int64."""
    spread: Tensor
    """Mean squared distance of the rows of all processes to their centroids, scalar float64."""


@torch.no_grad()
@full_precision
def kmeans(
    rows: Tensor,
    clusters: int,
    *,
    rounds: int,
    spherical: bool = False,
    seeding: Seeding = "k-means++",
    empty: Empty = "keep",
    restarts: int = 1,
    seed: int = 0,
    numbers: Tensor | None = None,
    start: Tensor | None = None,
) -> Clusters:
    """Cluster the rows of all processes; equal to one process that holds them all.

    Memory beside the rows is one chunk of scores and the centroids, never (N, K).

    Args:
        rows: Rows of this process, (n, D); unit vectors if spherical. Processes may hold unequally
            many.
        clusters: Number of clusters, K, at most the rows of all processes.
        rounds: Rounds of assignment and averaging, >= 1; fewer if nothing moves any more.
        spherical: Assign by the dot product and keep centroids at unit length; otherwise by the
            Euclidean distance.
        seeding: Where centroids start.
        empty: What happens to a centroid without rows.
        restarts: Independent clusterings, >= 1, of which the one with the least spread is given.
        seed: Where the draws start from, >= 0; the same in every process.
        numbers: Position of each row among the rows of all processes, (n,) int64: a permutation of
            [0, N) over all processes. None counts on from process to process. The same numbering
            gives the same clusters however the rows are dealt to processes.
        start: First centroids, (K, D), instead of a seeding.

    Returns:
        The clustering.

    Raises:
        ConfigError: There are fewer rows than clusters.

    Source: Lloyd, 1982, IEEE Trans. Inf. Theory 28(2); Arthur & Vassilvitskii, SODA 2007; spherical
    form as in facebookresearch/swav, main_deepclusterv2.py.
    """
    sizes = _sizes(rows)
    total = sum(sizes)
    if not 1 <= clusters <= total:
        raise ConfigError(
            f"k-means needs at least as many rows as clusters, got {clusters} clusters for {total}"
            " rows; lower the number of clusters."
        )
    if numbers is None:
        numbers = torch.arange(len(rows), device=rows.device) + sum(sizes[: rank()])
    best: Clusters | None = None
    for attempt in range(restarts):
        centroids = start
        if centroids is None:
            centroids = _seeds(rows, numbers, total, clusters, seeding, (seed, attempt))
        found = _lloyd(rows, centroids, total, rounds, spherical, empty)
        if best is None or bool(found.spread < best.spread):
            best = found
    assert best is not None
    return best


@torch.no_grad()
@full_precision
def nearest(
    rows: Tensor, centroids: Tensor, *, spherical: bool = False, sums: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of every row.

    Args:
        rows: (n, D).
        centroids: (K, D).
        spherical: By the largest dot product instead of the least Euclidean distance.
        sums: If given, (K, D), each row is added to the entry of its centroid.

    Returns:
        Number of the centroid, (n,) int64, and the score, (n,): x.c, less |c|^2 / 2 if not
        spherical.
    """
    clusters, device = len(centroids), rows.device
    index = torch.empty(len(rows), dtype=torch.int64, device=device)
    score = rows.new_empty(len(rows))
    width = min(_BLOCK, clusters)
    blocks = -(-clusters // width)
    spare = blocks * width - clusters  # so that every block is full
    weights = F.pad(centroids, (0, 0, 0, spare)).T  # (D, blocks width)
    offset = centroids.square().sum(dim=1) * (0.0 if spherical else -0.5)
    offset = F.pad(offset, (0, spare), value=-torch.inf)  # (blocks width,)
    step = chunk_rows(clusters, device)
    first = torch.arange(step, device=device) * blocks  # (chunk,) first block of each row
    for begin in range(0, len(rows), step):
        part = rows[begin : begin + step]  # (chunk, D)
        scores = torch.addmm(offset, part, weights).view(len(part) * blocks, width)
        # Maxima come several times faster than their places: search the best block only.
        best, block = scores.amax(dim=1).view(len(part), blocks).max(dim=1)  # (chunk,) each
        inside = scores[first[: len(part)] + block].argmax(dim=1)
        place = slice(begin, begin + len(part))
        score[place], index[place] = best, block * width + inside
        if sums is not None:
            sums.index_add_(0, index[place], part)
    return index, score


def chunk_rows(clusters: int, device: torch.device) -> int:
    """Rows of a chunk: its scores stay in the cache of a CPU, or make few launches elsewhere."""
    entries = 2**20 if device.type == "cpu" else 2**26
    return max(64, entries // clusters)


def _lloyd(
    rows: Tensor, centroids: Tensor, total: int, rounds: int, spherical: bool, empty: Empty
) -> Clusters:
    clusters = len(centroids)
    for _ in range(rounds):
        sums = torch.zeros_like(centroids)
        index, _ = nearest(rows, centroids, spherical=spherical, sums=sums)
        counts = _sum(torch.bincount(index, minlength=clusters))  # (K,)
        means = _sum(sums) / counts.clamp_min(1)[:, None].to(sums)
        moved = torch.where(counts[:, None] > 0, means, centroids)
        if empty == "split":
            moved = _split(moved, counts)
        if spherical:
            moved = F.normalize(moved, dim=1)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    index, score = nearest(rows, centroids, spherical=spherical)
    length = 1.0 if spherical else 0.0  # |c|^2, which the Euclidean score has in it
    squares = rows.square().sum(dim=1) - 2.0 * score + length  # (n,)
    return Clusters(
        centroids,
        index,
        _sum(torch.bincount(index, minlength=clusters)),
        _sum(squares.double().sum()) / total,
    )


def _split(centroids: Tensor, counts: Tensor) -> Tensor:
    """Put each empty centroid beside that of a large cluster, and push the two apart a little.

    The first empty one takes the largest cluster, the second the second largest, and so on; one
    stays where it is if no cluster of two rows is left for it.
    """
    largest = counts.argsort(descending=True, stable=True)  # (K,)
    empty = (counts == 0).nonzero().squeeze(1)  # (E,)
    giver = largest[: len(empty)]
    empty = empty[: len(giver)]
    shared = counts[giver] > 1
    empty, giver = empty[shared], giver[shared]
    sign = 1.0 - 2.0 * (torch.arange(centroids.shape[1], device=centroids.device) % 2)
    moved = centroids.clone()
    moved[empty] = centroids[giver] * (1.0 + _NUDGE * sign)
    moved[giver] = centroids[giver] * (1.0 - _NUDGE * sign)
    return moved


def _seeds(
    rows: Tensor,
    numbers: Tensor,
    total: int,
    clusters: int,
    seeding: Seeding,
    address: tuple[int, int],
) -> Tensor:
    """First centroids, (K, D), the same in every process and for any number of processes."""
    random = generator(address[0], CLUSTERS, address[1])
    size = clusters if seeding == "random" else min(total, max(_POOL, 4 * clusters))
    chosen = np.arange(total) if size == total else np.sort(random.choice(total, size, False))
    pool = _rows_of(rows, numbers, torch.from_numpy(chosen).to(rows.device))  # (size, D)
    if seeding == "random":
        return pool
    centroids = pool[_spread_out(pool, torch.from_numpy(random.random(clusters)))]
    if world_size() > 1:  # unlike devices may round unlike
        dist.broadcast(centroids, src=0)
    return centroids


def _rows_of(rows: Tensor, numbers: Tensor, chosen: Tensor) -> Tensor:
    """Bring rows of all processes to all processes: those with the numbers `chosen`, rising."""
    place = torch.searchsorted(chosen, numbers.contiguous()).clamp_max(len(chosen) - 1)  # (n,)
    mine = chosen[place] == numbers
    found = rows.new_zeros(len(chosen), rows.shape[1])
    found[place[mine]] = rows[mine]
    return _sum(found)


def _spread_out(pool: Tensor, draws: Tensor) -> Tensor:
    """Choose rows by k-means++: each with probability in proportion to its squared distance.

    Args:
        pool: Rows to choose from, (S, D).
        draws: Uniform numbers in [0, 1), (K,) float64.

    Returns:
        Numbers of the chosen rows, (K,).
    """
    size, device = len(pool), pool.device
    draws = draws.to(device)
    squares = pool.square().sum(dim=1)  # (S,)
    spare = -size % _DRAWN
    uniform = F.pad(torch.ones(size, dtype=torch.float64, device=device), (0, spare))
    closest = torch.full_like(squares, torch.inf)  # squared distance to the nearest chosen row
    chosen = torch.empty(len(draws), dtype=torch.int64, device=device)
    sums_up = [_running(len(uniform) // _DRAWN, device), _running(_DRAWN, device)]
    for k, draw in enumerate(draws):
        weights = F.pad(closest.double(), (0, spare)) if k else uniform
        # Rows that all stand on chosen ones are drawn uniformly, as is the first.
        weights = torch.where(weights.sum() > 0, weights, uniform)
        index = _in_proportion(weights, draw, sums_up).clamp_max(size - 1)
        chosen[k] = index
        products = pool @ pool.index_select(0, index.view(1)).squeeze(0)  # (S,)
        distance = squares - 2.0 * products + squares[index]
        closest = torch.minimum(closest, distance.clamp_min_(0.0))
        closest.index_fill_(0, index.view(1), 0.0)
    return chosen


def _in_proportion(weights: Tensor, draw: Tensor, sums_up: list[Tensor]) -> Tensor:
    """Find the place where the running sum of weights (S,) passes a share of their sum, scalar.

    Block by block, with sums and products only: a running sum over all of them takes longer and
    is not the same from run to run on a GPU.
    """
    blocks = weights.view(-1, _DRAWN)
    each = blocks.sum(dim=1)
    reach = sums_up[0] @ each  # (blocks,)
    target = draw * reach[-1]
    block = torch.searchsorted(reach, target, right=True).clamp_max(len(reach) - 1)
    rest = target - (reach[block] - each[block])
    inside = torch.searchsorted(sums_up[1] @ blocks[block], rest, right=True)
    return block * _DRAWN + inside.clamp_max(_DRAWN - 1)


def _running(size: int, device: torch.device) -> Tensor:
    """The matrix whose product with a vector is its running sum, (size, size)."""
    return torch.ones(size, size, dtype=torch.float64, device=device).tril()


def _sizes(rows: Tensor) -> list[int]:
    """Rows of each process."""
    if world_size() == 1:
        return [len(rows)]
    sizes = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    sizes[rank()] = len(rows)
    return [int(size) for size in _sum(sizes)]


def _sum(x: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(x)
    return x
