"""Members of every cluster, kept so that a random one is found without a search."""

import torch
from torch import Tensor, nn

_SLACK = 16
"""Free places of an empty bucket; a bucket of n rows has n + `_SLACK` free ones."""


class Buckets(nn.Module):
    """Which rows carry which label, as one list per label with free places behind it.

    Drawing a member and moving a batch of rows take O(B) work and O(B log B) comparisons whatever
    the number of rows, on the device and without waiting for it. A bucket that more than doubles
    hides its newest rows from `draw` until the next `rebuild`.
    """

    slots: Tensor
    """Rows, bucket after bucket, (2N + 16C + 1,) int32; the last place takes what goes nowhere."""
    places: Tensor
    """Where each row lies in `slots`, (N + 1,) int32; the last place of `slots` if hidden."""
    starts: Tensor
    """Where each bucket begins, (C + 1,) int64."""
    sizes: Tensor
    """Rows in each bucket, (C,) int64."""

    def __init__(self, rows: int, buckets: int) -> None:
        """Make empty buckets; `rebuild` fills them.

        Args:
            rows: Number of rows, N.
            buckets: Number of buckets, C.
        """
        super().__init__()
        self.nowhere = 2 * rows + _SLACK * buckets
        self.nobody = rows
        self.register_buffer("slots", torch.zeros(self.nowhere + 1, dtype=torch.int32))
        places = torch.full((rows + 1,), self.nowhere, dtype=torch.int32)
        self.register_buffer("places", places)
        self.register_buffer("starts", torch.zeros(buckets + 1, dtype=torch.int64))
        self.register_buffer("sizes", torch.zeros(buckets, dtype=torch.int64))

    @torch.no_grad()
    def rebuild(self, labels: Tensor) -> None:
        """Sort all rows into buckets with free places anew, O(N log N).

        Args:
            labels: Bucket of each row, (N,) integers in [0, C).
        """
        ordered, order = labels.sort(stable=True)  # (N,) each
        ordered = ordered.long()
        ones = torch.ones_like(ordered)
        self.sizes.zero_().index_add_(0, ordered, ones)
        ends = self.sizes.cumsum(0)  # (C,)
        rooms = 2 * self.sizes + _SLACK
        self.starts[1:] = rooms.cumsum(0)
        rank = torch.arange(len(labels), device=labels.device) - (ends - self.sizes)[ordered]
        place = self.starts[ordered] + rank  # (N,)
        self.slots.zero_()
        self.slots[place] = order.int()
        self.places[order] = place.int()

    @torch.no_grad()
    def move(self, rows: Tensor, old: Tensor, new: Tensor, moved: Tensor) -> None:
        """Take rows out of their buckets and put them into others.

        Args:
            rows: Rows, (B,) int64; those that move are distinct.
            old: Bucket of each row until now, (B,) int64.
            new: Bucket of each row from now on, (B,) int64.
            moved: Which of them move, (B,) bool.
        """
        self._take(rows, old, moved)
        self._put(rows, new, moved)

    def _take(self, rows: Tensor, buckets: Tensor, moved: Tensor) -> None:
        """Remove rows; the last rows of a bucket fill the holes."""
        count, device = len(rows), rows.device
        place = torch.where(moved, self.places[rows].long(), self.nowhere)
        self.places[torch.where(moved, rows, self.nobody)] = self.nowhere
        place, by = place.sort()  # bucket by bucket, hidden rows last
        gone, bucket = place < self.nowhere, buckets[by]
        start, size = self.starts[bucket], self.sizes[bucket]
        first = torch.searchsorted(place, start)  # (B,) where the bucket's removed rows begin
        removed = torch.searchsorted(place, start + size) - first  # (B,) how many they are
        end = start + size - removed  # (B,) where the bucket ends from now on
        tail = end + torch.arange(count, device=device) - first  # (B,) one place beyond the new end
        found = torch.searchsorted(place, tail).clamp_max(count - 1)
        stays = gone & (place[found] != tail)  # a row beyond the new end that is not removed
        hole = gone & (place < end)
        # A bucket has as many holes as rows beyond its end, and both are listed bucket by bucket.
        holes = torch.full((count + 1,), self.nowhere, device=device)
        holes[torch.where(hole, hole.cumsum(0) - 1, count)] = torch.where(hole, place, self.nowhere)
        target = torch.where(stays, holes[stays.cumsum(0) - 1], self.nowhere)
        row = self.slots[torch.where(stays, tail, self.nowhere)]
        self.slots[target] = torch.where(stays, row, 0)
        self.places[torch.where(stays, row.long(), self.nobody)] = target.int()
        self.sizes.index_add_(0, bucket, -gone.long())

    def _put(self, rows: Tensor, buckets: Tensor, moved: Tensor) -> None:
        """Append rows; those that find no free place are hidden."""
        last = len(self.sizes) - 1
        bucket, by = torch.where(moved, buckets, last + 1).sort(stable=True)
        row, moved = rows[by], moved[by]
        rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(bucket, bucket)
        bucket = bucket.clamp_max(last)
        place = self.starts[bucket] + self.sizes[bucket] + rank
        fits = moved & (place < self.starts[bucket + 1])
        place = torch.where(fits, place, self.nowhere)
        self.slots[place] = torch.where(fits, row, 0).int()
        self.places[torch.where(fits, row, self.nobody)] = place.int()
        self.sizes.index_add_(0, bucket, fits.long())

    @torch.no_grad()
    def draw(self, buckets: Tensor, rows: Tensor, share: Tensor, *, itself: bool = False) -> Tensor:
        """Draw one member of a bucket for each row.

        Args:
            buckets: Buckets to draw from, (B,) int64.
            rows: Who asks, (B,) int64.
            share: Uniform random numbers in [0, 1), (B,) float64: 0 is the first member.
            itself: Whether a row may be drawn for itself.

        Returns:
            Rows, (B,) int64; where a bucket has no other member, the row itself.
        """
        start, size = self.starts[buckets], self.sizes[buckets]
        own = self.places[rows].long()
        inside = (own >= start) & (own < start + size) & (not itself)
        free = size - inside.long()
        place = start + (share * free).long().clamp_max(free - 1)
        place = place + (inside & (place >= own)).long()
        found = self.slots[torch.where(free > 0, place, self.nowhere)].long()
        return torch.where(free > 0, found, rows)
