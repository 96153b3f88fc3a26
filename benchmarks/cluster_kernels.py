"""Clustering kernels beside what they cannot do without, or beside a peer.

- sinkhorn: soft assignment of a batch of 256 behind a queue of 3,840 to 3,000 prototypes, 3 rounds,
  beside lightly's function for the same scores (extra `bench`); both give the same assignment.
- online_kmeans: relabelling a batch of 256 among 10,000 clusters and moving their centroids, beside
  the product of the batch with the centroids that no method can avoid.
- kmeans: one round over 16,384 rows and 3,000 clusters, beside its bare matrix products.

Run: OMP_NUM_THREADS=1 python -m benchmarks.cluster_kernels --out cluster_kernels.json
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from benchmarks.pairing import Report, finish, paired, parser
from torch import Tensor

from scoutview.nn.banks import MemoryBank
from scoutview.nn.clustering import sinkhorn
from scoutview.nn.kmeans import chunk_rows, nearest
from scoutview.nn.online_kmeans import OnlineKMeans

DIM = 128
MOST = {"sinkhorn": 0.60, "online_kmeans": 1.10, "kmeans": 1.25}
"""Bars: time of ours over the other side's; 1.25 is 0.8 of the rate of the products."""


def units(count: int, seed: int) -> Tensor:
    """Random unit vectors, (count, DIM)."""
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIM, generator=random), dim=1)


def measure_sinkhorn(rounds: int, quick: bool) -> Report | None:
    if importlib.util.find_spec("lightly") is None:
        print(
            "sinkhorn: not measured, because lightly is not installed; run"
            " pip install 'scoutview[bench]'.",
            flush=True,
        )
        return None
    from lightly.loss.swav_loss import sinkhorn as peer

    queue, batch, prototypes = (960, 64, 750) if quick else (3840, 256, 3000)
    scores = units(queue + batch, 0) @ units(prototypes, 1).T

    def ours() -> float:
        sinkhorn(scores, epsilon=0.05, iterations=3, keep=batch)
        return 1

    def theirs() -> float:
        peer(scores, iterations=3, epsilon=0.05)[-batch:]
        return 1

    found = sinkhorn(scores, epsilon=0.05, iterations=3, keep=batch)
    torch.testing.assert_close(found, peer(scores, 3, 0.05)[-batch:], rtol=1e-3, atol=1e-6)
    return paired(
        "cluster_kernels sinkhorn",
        f"assignments of {queue} + {batch} rows to {prototypes} prototypes, 3 rounds",
        {"ours": ours, "lightly": theirs},
        rounds=rounds,
        targets={"lightly": 1 / MOST["sinkhorn"]},
    )


def measure_online_kmeans(rounds: int, quick: bool) -> Report:
    images, batch, clusters = (8192, 64, 1024) if quick else (131_072, 256, 10_000)
    torch.manual_seed(0)
    bank = MemoryBank(images, DIM)
    online = OnlineKMeans(images, DIM, clusters)
    online.start(bank, torch.arange(images) % clusters)
    random = torch.Generator().manual_seed(1)
    rows = torch.randperm(images, generator=random)[:batch]
    both = [bank.read(rows), units(batch, 2)]  # the rows go there and back

    def ours() -> float:
        online.update(rows, both[0], both[1])
        both.reverse()
        return 1

    room = torch.empty(batch, clusters)

    def product() -> float:
        torch.mm(both[1], online.centroids.T, out=room)
        return 1

    expected = torch.cdist(both[1], online.centroids).argmin(dim=1)
    ours()
    assert torch.equal(online.labels[rows].long(), expected)
    ours()
    return paired(
        "cluster_kernels online_kmeans",
        f"steps of {batch} rows among {clusters} clusters, D = {DIM}",
        {"ours": ours, "product": product},
        rounds=rounds,
        targets={"product": 1 / MOST["online_kmeans"]},
    )


def measure_kmeans(rounds: int, quick: bool) -> Report:
    count, clusters = (4096, 750) if quick else (16_384, 3000)
    rows, centroids = units(count, 0), units(clusters, 1)
    sums = torch.zeros_like(centroids)
    step = chunk_rows(clusters, rows.device)
    room = torch.empty(step, clusters)

    def ours() -> float:
        nearest(rows, centroids, sums=sums.zero_())
        return count

    def products() -> float:
        for part in torch.split(rows, step):
            torch.mm(part, centroids.T, out=room[: len(part)])
        return count

    index, _ = nearest(rows, centroids)
    assert torch.equal(index, (rows @ centroids.T).argmax(dim=1))  # all of one length
    return paired(
        "cluster_kernels kmeans",
        f"rows of one round among {clusters} clusters, D = {DIM}",
        {"ours": ours, "products": products},
        rounds=rounds,
        targets={"products": 1 / MOST["kmeans"]},
    )


KERNELS: dict[str, Callable[[int, bool], Report | None]] = {
    "sinkhorn": measure_sinkhorn,
    "online_kmeans": measure_online_kmeans,
    "kmeans": measure_kmeans,
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=list(KERNELS))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    content = {}
    for name in chosen.kernels:
        report = KERNELS[name](chosen.rounds, chosen.quick)
        if report is None:
            continue
        (other,) = finish(report).ratios
        content[report.name] = {
            f"time over {other}": 1 / report.ratios[other].median,
            "quartiles": [1 / report.ratios[other].high, 1 / report.ratios[other].low],
            "bar": MOST[name],
            "verdict": report.verdict(other),
            "control": report.control.median,
            "trustworthy": report.trustworthy,
            "machine": report.machine,
        }
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
