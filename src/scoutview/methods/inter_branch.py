"""InterCLR's inter-image branch, which NPIDv2, MoCo v2 and BYOL share.

Images of one cluster attract, images of other clusters repel. The clusters are those of a memory
bank of all images, and follow every step.

Source: Xie et al., 2022, arXiv:2008.11702.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scoutview.base.randomness import CLUSTERS
from scoutview.contract import Progress, Sweep
from scoutview.methods.inter_config import InterConfig, InterNegativesConfig
from scoutview.nn.banks import MemoryBank
from scoutview.nn.gather import all_gather, rank, world_size
from scoutview.nn.losses.margin import log_sum_exp
from scoutview.nn.negatives import drawn_rows, negatives_log_sum_exp, spread_rows
from scoutview.nn.online_kmeans import OnlineKMeans
from scoutview.nn.precision import unit
from scoutview.nn.seeds import Seed
from scoutview.nn.sweep import encode_sweep, merged

_POSITIVES, _NEGATIVES = 1, 2  # streams of draws from the bank; the base method has stream 0
_FILLED_AT_ONCE = 65536


class InterBranch(nn.Module):
    """Clusters of a bank, positives from them, and negatives from the others.

    The bank belongs to the method, because NPIDv2 uses one bank for both branches.
    """

    def __init__(self, config: InterConfig, bank: MemoryBank, dim: int) -> None:
        """Deal the rows to clusters in turn; `begin` clusters them.

        Args:
            config: Settings.
            bank: The bank that is clustered.
            dim: Width of its rows.
        """
        super().__init__()
        self.kmeans = OnlineKMeans(
            len(bank),
            dim,
            config.inter_clusters,
            smallest=config.min_cluster,
            smallest_half=config.smallest_half,
            distance=config.distance,
        )
        self.kmeans.refresh(bank)
        self.seed = Seed()
        self.config = config
        self._rows: list[Tensor] = []
        self._changed: Tensor | None = None

    def joins(self, progress: Progress) -> bool:
        """Say whether the branch is part of the loss."""
        return progress.epoch >= self.config.inter_from_epoch

    def weighted(self, intra: Tensor, inter: Tensor, progress: Progress) -> Tensor:
        """Weigh two scalars of the branches, for example their losses; before it joins, one."""
        if not self.joins(progress):
            return intra + 0.0 * inter  # a gradient of zero for a head of its own
        return self.config.intra_weight * intra + (1.0 - self.config.intra_weight) * inter

    def positives(self, bank: MemoryBank, rows: Tensor, progress: Progress) -> Tensor:
        """Look up a random image of the same cluster.

        Args:
            bank: The bank.
            rows: Images of this process, (B,) int64, each process as many.
            progress: Each step has its own draws.

        Returns:
            Unit vectors, (B, D).
        """
        drawn = bank.sample(world_size() * len(rows), step=progress.step, stream=_POSITIVES)
        share = drawn[rank() * len(rows) : (rank() + 1) * len(rows)].double() / len(bank)
        found = self.kmeans.buckets.draw(
            self.kmeans.labels[rows].long(), rows, share, itself=self.config.positive_may_be_query
        )
        return bank.read(found)

    def negatives(
        self,
        bank: MemoryBank,
        query: Tensor,
        rows: Tensor,
        progress: Progress,
        *,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Sum over images of other clusters; see `nn.negatives.negatives_log_sum_exp`.

        Args:
            bank: The bank.
            query: Unit vectors, (B, D).
            rows: Their images, (B,) int64.
            progress: Each step has its own draws, the same in every process.
            temperature: Softmax temperature.

        Returns:
            Log-sum-exp, (B,), and numbers of negatives, (B,).
        """
        config, labels = self.config, self.kmeans.labels
        assert isinstance(config, InterNegativesConfig)
        own = labels[rows]
        looked_at = drawn_rows(config.sampling, config.inter_negatives, config.pool_share)
        drawn = None
        if looked_at < len(bank):
            random = bank.sample(looked_at + 1, step=progress.step, stream=_NEGATIVES)
            drawn = spread_rows(random, len(bank))
        features = bank.rows
        if bank.sharded:  # the owners send what is looked at
            chosen = torch.arange(len(bank), device=rows.device) if drawn is None else drawn
            features, labels, drawn = bank.read(chosen, same=True), labels[chosen], None
        return negatives_log_sum_exp(
            query,
            features,
            labels,
            own=own,
            others=len(bank) - self.kmeans.counts[own.long()],
            count=config.inter_negatives,
            temperature=temperature,
            sampling=config.sampling,
            pool=config.pool_share,
            pool_of=config.pool_of,
            rows=drawn,
            length=len(bank),
        )

    def contrast(
        self,
        bank: MemoryBank,
        rows: Tensor,
        progress: Progress,
        *,
        query: Tensor,
        partner: Tensor,
        others: Tensor,
        asking: Tensor,
        temperature: float,
        images: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute MarginNCE in both branches, weighted.

        Args:
            bank: The bank.
            rows: Images of this process, (B,) int64.
            progress: The step.
            query: Unit vectors, (B, D).
            partner: What each query looks for within its image, unit vectors, (B, D).
            others: What it must be told from, unit vectors, (K, D).
            asking: Unit vectors that look for an image of the same cluster, (B, D).
            temperature: Softmax temperature of both.
            images: Image of each of `others`, (K,) int64; a query is not told from its own. None
                counts all.

        Returns:
            Loss, scalar, and what to log.

        Source: Xie et al., 2022, arXiv:2008.11702, eq. 7.
        """
        config, heat = self.config, temperature
        assert isinstance(config, InterNegativesConfig)
        own = None if images is None else rows
        total, _ = log_sum_exp(query, others, temperature=heat, labels=images, own=own)  # (B,)
        cosine = (query * partner).sum(dim=1)  # (B,)
        intra = config.margin_nce(cosine, total, config.intra_margin, heat).mean()
        positive = self.positives(bank, rows, progress)  # (B, D)
        total, count = self.negatives(bank, asking, rows, progress, temperature=heat)
        cosine = (asking * positive).sum(dim=1)  # (B,)
        inter = config.margin_nce(cosine, total, config.inter_margin, heat).mean()
        among = count.new_full((1,), len(others))
        chance = self.weighted(
            config.chance(among, config.intra_margin, heat),
            config.chance(count, config.inter_margin, heat),
            progress,
        )
        logs = {"chance_loss": chance, **self.logs(intra, inter)}
        return self.weighted(intra, inter, progress), logs

    def logs(self, intra: Tensor, inter: Tensor) -> dict[str, Tensor]:
        """Name what shows how the branch fares; `largest_cluster` near 1 is its collapse."""
        found = {"intra_loss": intra.detach(), "inter_loss": inter.detach()}
        found["largest_cluster"] = self.kmeans.largest_share()
        if self._changed is not None:
            found["label_change"] = self._changed
        return found

    def collect(self, rows: Tensor) -> None:
        """Remember the images of one accumulated part, (B,), for `follow`."""
        self._rows.append(all_gather(rows))

    @torch.no_grad()
    def follow(self, bank: MemoryBank, write: Callable[[], None], progress: Progress) -> None:
        """Let the clusters follow what a step writes into the bank.

        Args:
            bank: The bank.
            write: Writes the images that were collected.
            progress: The step.
        """
        rows = torch.cat(self._rows)
        self._rows.clear()
        if self.config.relabel == "offline":
            write()
            return
        old = bank.read(rows, same=True)
        write()
        self._changed = self.kmeans.update(rows, old, bank.read(rows, same=True))
        if (progress.step + 1) % self.config.refresh_every == 0:
            self.kmeans.repair(bank)

    @torch.no_grad()
    def begin(
        self, bank: MemoryBank, sweep: Sweep, progress: Progress, *networks: nn.Module
    ) -> None:
        """Fill and cluster the bank before training, and offline labels before every epoch.

        Args:
            bank: The bank.
            sweep: Starts a pass over the training set.
            progress: The epoch that begins.
            networks: From images to rows of the bank, run in this order.
        """
        if progress.epoch == 0:
            parts = ((batch.rows, batch.views[0]) for batch in sweep())
            rows, features = encode_sweep(parts, *networks)
            fill(bank, rows, unit(features))
        elif self.config.relabel == "online":
            return
        seed = self.seed.number(CLUSTERS, progress.epoch)
        self.kmeans.cluster(bank, rounds=self.config.kmeans_rounds, seed=seed)
        self.kmeans.repair(bank)


def fill(bank: MemoryBank, rows: Tensor, values: Tensor) -> None:
    """Write rows of which each process knows others, (n,) and (n, D); unknown ones stay."""
    for start in range(0, len(bank), _FILLED_AT_ONCE):
        numbers = torch.arange(start, min(start + _FILLED_AT_ONCE, len(bank)), device=rows.device)
        mine = (rows >= start) & (rows < start + _FILLED_AT_ONCE)
        before = bank.read(numbers, same=True)
        bank.write(numbers, merged(rows[mine] - start, values[mine], into=before))
