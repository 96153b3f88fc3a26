import copy

import pytest
import torch

from scoutview.base.errors import ConfigError
from scoutview.nn.queues import Queue


def numbered(start, n, dim=2):
    return torch.arange(start, start + n, dtype=torch.float32)[:, None].expand(n, dim)


def test_queue__wraps_and_keeps_the_last_rows():
    queue = Queue(5, 2, random=False)
    for start in (0, 3, 6):
        queue.write(numbered(start, 3))
    assert queue.ordered()[:, 0].tolist() == [4, 5, 6, 7, 8]
    assert queue.position == 9 % 5


def test_queue_newest_first__is_the_shifted_queue_of_the_published_swav():
    queue = Queue(5, 2, random=False, newest_first=True)
    shifted = torch.zeros(5, 2)
    for start in (1, 3, 5, 7):
        rows = numbered(start, 2)
        shifted[2:] = shifted[:-2].clone()
        shifted[:2] = rows
        queue.write(rows)
        assert torch.equal(queue.ordered(), shifted)


def test_queue__is_full_after_its_length_was_written():
    queue = Queue(4, 2, random=False)
    queue.write(numbered(0, 3))
    assert not queue.is_full
    queue.write(numbered(3, 1))
    assert queue.is_full


def test_queue__goes_on_from_a_loaded_state():
    queue = Queue(5, 2, random=True)
    queue.write(numbered(0, 3))
    loaded = Queue(5, 2, random=True)
    assert loaded.position == 0  # the host has read its counter before the state comes
    loaded.load_state_dict(queue.state_dict())
    for q in (queue, loaded):
        q.write(numbered(3, 4))
    assert torch.equal(queue.rows, loaded.rows)
    assert queue.position == loaded.position


def test_queue__sees_a_counter_that_was_copied_in_place():
    queue = Queue(5, 2, random=True)
    queue.write(numbered(0, 3))
    queue.written.copy_(torch.tensor(4))
    assert queue.position == 4


def test_queue__survives_a_deep_copy_and_a_change_of_type():
    queue = Queue(5, 2, random=True)
    queue.write(numbered(0, 3))
    other = copy.deepcopy(queue).double()
    assert other.position == 3
    assert other.written.dtype == torch.int64


def test_queue__starts_with_unit_vectors_if_random():
    assert torch.allclose(Queue(7, 3, random=True).rows.norm(dim=1), torch.ones(7))


def test_queue__writes_in_place():
    queue = Queue(5, 2, random=True)
    before = queue.rows.data_ptr()
    queue.write(numbered(0, 3))
    assert queue.rows.data_ptr() == before


def test_queue__refuses_more_rows_than_it_holds():
    with pytest.raises(ConfigError, match="at least as long"):
        Queue(2, 2, random=True).write(numbered(0, 3))
