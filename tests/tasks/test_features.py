import numpy as np
import pytest
import torch
from torch import nn

from scoutview.base.errors import DataError
from scoutview.data.batch import Batch
from scoutview.tasks.features import cached, content_hash, outputs, weights_hash


def batches(n, size):
    x = torch.arange(n, dtype=torch.float32)[:, None, None, None] * torch.ones(1, 1, 2, 2)
    for start in range(0, n, size):
        part = x[start : start + size]
        rows = torch.arange(start, start + len(part))
        yield Batch([part], [torch.zeros(len(part), 2, 3)], rows, rows, rows)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


def test_outputs__are_in_order_and_do_not_depend_on_the_batch_size():
    module = network()
    module[3].eval()
    modes = [m.training for m in module.modules()]
    state = {k: v.clone() for k, v in module.state_dict().items()}
    small, large = (
        outputs(lambda b: module(b.views[0]), module, batches(10, size), lambda b: b, count=10)
        for size in (3, 10)
    )
    np.testing.assert_allclose(small, large, rtol=1e-6)
    expected = module.eval()(next(iter(batches(10, 10))).views[0]).detach().numpy()
    np.testing.assert_allclose(large, expected, rtol=1e-6)
    module.train()
    assert modes[3] is True
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_outputs__puts_every_mode_back_even_after_an_error():
    module = network()
    module[2].eval()
    with pytest.raises(DataError, match="Expected 12 images, got 10"):
        outputs(lambda b: module(b.views[0]), module, batches(10, 4), lambda b: b, count=12)
    assert [m.training for m in module] == [True, True, False, True]
    with pytest.raises(DataError, match="got more"):
        outputs(lambda b: module(b.views[0]), module, batches(10, 4), lambda b: b, count=5)


def test_weights_hash__changes_with_any_weight_or_buffer_and_not_with_layout():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = weights_hash(module)
    module.to(memory_format=torch.channels_last)
    assert weights_hash(module) == before
    module[1].running_mean[0] += 1e-3
    assert weights_hash(module) != before


def test_cached__computes_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.arange(6, dtype=np.float32).reshape(2, 3)

    file = tmp_path / "features" / f"{content_hash('a', 1)}.npy"
    first, second = cached(file, compute), cached(file, compute)
    np.testing.assert_array_equal(first, second)
    assert len(calls) == 1
    assert content_hash("a", 1) != content_hash("a", 2)
