import numpy as np
import pytest
import timm
import torch
import torch.distributed as dist
from tests.processes import run_ranks
from timm.layers import BatchNormAct2d
from torch import nn

from scoutview.nn.gather import rank
from scoutview.nn.sync_batch_norm import (
    SyncBatchNorm,
    convert_sync_batch_norm,
    normalises_alone,
)

WORLD = 2


def images(offset=0.0, dtype=torch.float64):
    x = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x * 2 + offset).to(dtype)


def norm(kind, **options):
    module = kind(3, **options).double()
    if module.affine:
        module.weight.data.copy_(torch.tensor([0.5, 1.5, -2.0]))
        module.bias.data.copy_(torch.tensor([0.1, 0.0, 3.0]))
    return module


def run(module, x, world=1):
    """Output, input gradient, mean parameter gradients and running statistics."""
    x = x.clone().requires_grad_()
    out = module(x)
    out.sin().sum().mul(world).backward()  # the loss of the whole is the mean of the parts
    grads = []
    for p in module.parameters():
        if world > 1:
            dist.all_reduce(p.grad)
        grads.append(p.grad / world)
    grad_x = x.grad / world
    return [t.detach().numpy() for t in (out, grad_x, *grads, *module.buffers())]


SETTINGS = [
    (offset, options, channels_last)
    for offset in (0.0, 1e4)
    for options in ({}, {"affine": False, "momentum": None})
    for channels_last in (False, True)
]


def synchronised_parts():
    out = []
    for offset, options, channels_last in SETTINGS:
        x = images(offset).chunk(WORLD)[rank()]
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        out.append(run(norm(SyncBatchNorm, **options), x, WORLD))
    return out


@pytest.mark.ddp
def test_sync_batch_norm__equals_batch_norm_on_the_whole_batch():
    by_rank = run_ranks(synchronised_parts, WORLD)
    for number, (offset, options, _) in enumerate(SETTINGS):
        expected = run(norm(nn.BatchNorm2d, **options), images(offset))
        parts = [of_rank[number] for of_rank in by_rank]
        tolerance = 1e-9 if offset else 1e-11  # a large mean costs digits in any form
        for i in (0, 1):  # outputs and input gradients are rows of the batch
            np.testing.assert_allclose(
                np.concatenate([part[i] for part in parts]),
                expected[i],
                rtol=tolerance,
                atol=tolerance,
            )
        for part in parts:
            for actual, value in zip(part[2:], expected[2:], strict=True):
                np.testing.assert_allclose(actual, value, rtol=tolerance, atol=tolerance)


def grouped_parts():
    """With both processes as a group, and with each as a group of its own."""
    both = dist.new_group([0, 1])
    alone = [dist.new_group([r]) for r in range(WORLD)][rank()]
    x = images().chunk(WORLD)[rank()]
    return [run(norm(SyncBatchNorm, group=group), x, WORLD)[:2] for group in (both, alone)]


@pytest.mark.ddp
def test_sync_batch_norm__takes_statistics_of_its_group():
    together, alone = zip(*run_ranks(grouped_parts, WORLD), strict=True)
    whole = run(norm(nn.BatchNorm2d), images())
    own = [run(norm(nn.BatchNorm2d), part) for part in images().chunk(WORLD)]
    for i in (0, 1):  # outputs, and input gradients, of which a part has its share of the loss
        np.testing.assert_allclose(np.concatenate([p[i] for p in together]), whole[i], atol=1e-11)
        np.testing.assert_allclose(
            np.concatenate([p[i] for p in alone]), np.concatenate([p[i] for p in own]), atol=1e-11
        )


def memory_format_and_type():
    x = images(dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    out = norm(SyncBatchNorm).float()(x)
    return out.is_contiguous(memory_format=torch.channels_last), str(out.dtype)


@pytest.mark.ddp
def test_sync_batch_norm__keeps_memory_format_and_type():
    assert run_ranks(memory_format_and_type, WORLD) == [(True, "torch.bfloat16")] * WORLD


def test_sync_batch_norm__is_batch_norm_in_one_process():
    for actual, expected in zip(
        run(norm(SyncBatchNorm), images()), run(norm(nn.BatchNorm2d), images()), strict=True
    ):
        assert (actual == expected).all()


def test_convert__keeps_the_names_and_shares_the_parameters():
    model = timm.create_model("test_resnet", num_classes=0)
    before = dict(model.named_parameters())
    keys = list(model.state_dict())
    model = convert_sync_batch_norm(model)
    assert list(model.state_dict()) == keys
    assert all(p is before[n] for n, p in model.named_parameters())
    assert not normalises_alone(model)
    apart = SyncBatchNorm(4)
    apart.group = object()  # anything but all processes
    assert normalises_alone(nn.Sequential(apart))
    assert not any(type(m) is nn.BatchNorm2d for m in model.modules())


def test_convert__keeps_the_activation_of_timm_norms():
    module = BatchNormAct2d(3).double()
    x = images()
    expected = module(x)
    converted = convert_sync_batch_norm(module)
    assert type(converted) is SyncBatchNorm
    torch.testing.assert_close(converted(x), expected)
    assert float(expected.detach().min()) == 0.0


def test_convert__leaves_evaluation_mode_alone():
    module = nn.Sequential(nn.BatchNorm1d(3)).eval()
    assert not convert_sync_batch_norm(module)[0].training


def test_normalises_alone__asks_for_a_batch_norm_of_the_process():
    assert normalises_alone(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    assert not normalises_alone(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    assert not normalises_alone(nn.Sequential(nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)))
