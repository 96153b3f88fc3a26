import torch

from scoutview.nn.buckets import Buckets


def members(buckets: Buckets, bucket: int) -> set[int]:
    start, size = int(buckets.starts[bucket]), int(buckets.sizes[bucket])
    return set(buckets.slots[start : start + size].tolist())


def by_hand(labels: torch.Tensor, bucket: int) -> set[int]:
    return set((labels == bucket).nonzero()[:, 0].tolist())


def filled(labels: torch.Tensor, count: int) -> Buckets:
    buckets = Buckets(len(labels), count)
    buckets.rebuild(labels)
    return buckets


def test_move__keeps_the_members_of_every_bucket_through_many_batches():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(7, (200,), generator=random)
    buckets = filled(labels, 7)
    for _ in range(40):
        rows = torch.randperm(200, generator=random)[:23]
        new = torch.randint(7, (23,), generator=random)
        old = labels[rows].clone()
        moved = (old != new) & (torch.rand(23, generator=random) < 0.8)
        labels[rows[moved]] = new[moved]
        buckets.move(rows, old, new, moved)
        for bucket in range(7):
            assert members(buckets, bucket) == by_hand(labels, bucket)
        places = buckets.places[:-1].long()
        assert torch.equal(buckets.slots[places].long(), torch.arange(200))


def test_move__empties_a_bucket_and_fills_it_again():
    labels = torch.tensor([0, 0, 0, 1])
    buckets = filled(labels, 2)
    rows, all_ = torch.tensor([2, 0, 1]), torch.ones(3, dtype=torch.bool)
    buckets.move(rows, torch.zeros(3).long(), torch.ones(3).long(), all_)
    assert members(buckets, 0) == set()
    assert members(buckets, 1) == {0, 1, 2, 3}
    buckets.move(rows, torch.ones(3).long(), torch.zeros(3).long(), all_)
    assert members(buckets, 0) == {0, 1, 2}


def test_move__hides_what_does_not_fit_until_the_next_rebuild():
    labels = torch.arange(100).clamp_max(60) // 60  # rows 60 to 99 in bucket 1
    buckets = filled(labels, 2)
    rows, moved = torch.arange(60), torch.ones(60, dtype=torch.bool)
    buckets.move(rows, labels[:60].clone(), torch.ones(60).long(), moved)
    assert int(buckets.sizes[1]) == 40 + 40 + 16  # its rows, as many free places, and the slack
    hidden = buckets.places[:100] == buckets.nowhere
    assert int(hidden.sum()) == 4
    back = hidden[:60].nonzero()[:, 0]
    buckets.move(back, torch.ones(4).long(), torch.zeros(4).long(), torch.ones(4).bool())
    assert members(buckets, 0) == set(back.tolist())
    labels[:60] = 1
    buckets.rebuild(labels)
    assert members(buckets, 1) == set(range(100))


def test_draw__is_uniform_over_the_other_members():
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    buckets = filled(labels, 2)
    share = (torch.arange(3000).double() + 0.5) / 3000
    rows = torch.full((3000,), 4)
    drawn = buckets.draw(labels[rows], rows, share)
    assert torch.bincount(drawn, minlength=6).tolist() == [0, 1000, 1000, 0, 0, 1000]
    drawn = buckets.draw(labels[rows], rows, share, itself=True)
    assert torch.bincount(drawn, minlength=6).tolist() == [0, 750, 750, 0, 750, 750]


def test_draw__gives_the_row_itself_where_it_is_alone():
    buckets = filled(torch.tensor([0, 1, 1]), 3)
    rows = torch.tensor([0, 1])
    share = torch.tensor([0.99, 0.99], dtype=torch.float64)
    assert buckets.draw(torch.tensor([0, 1]), rows, share).tolist() == [0, 2]
    assert buckets.draw(torch.tensor([2, 2]), rows, share).tolist() == [0, 1]
