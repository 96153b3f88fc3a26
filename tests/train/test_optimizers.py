import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from scoutview.base.errors import ConfigError
from scoutview.nn.optim_config import AdamConfig, AdamWConfig, LARSConfig, LARSVariant, SGDConfig
from scoutview.train.optimizers import (
    LARS,
    build_optimizer,
    lars_form,
    parameter_groups,
    set_rates,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "lars"


def golden_case(name):
    meta = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return meta, {key: torch.from_numpy(arrays[key]).double() for key in arrays.files}


def run_golden(name, variant, excluded, adapt_excluded=False):
    meta, arrays = golden_case(name)
    arguments = meta["arguments"]
    count = sum(key.startswith("in_param_") for key in arrays)
    params = [nn.Parameter(arrays[f"in_param_{i}"].clone()) for i in range(count)]
    lr = arrays.get("in_lr", torch.full((arguments["steps"],), arguments.get("lr", 0.0)).double())
    optimizer = LARS(
        [
            {"params": [p for i, p in enumerate(params) if not excluded(i, p, arguments)]},
            {
                "params": [p for i, p in enumerate(params) if excluded(i, p, arguments)],
                "adapt": adapt_excluded,
                "weight_decay": arguments["weight_decay"] if adapt_excluded else 0.0,
            },
        ],
        lr=float(lr[0]),
        momentum=arguments["momentum"],
        weight_decay=arguments["weight_decay"],
        trust_coefficient=arguments.get("trust_coefficient", arguments.get("eeta")),
        nesterov=arguments.get("nesterov", False),
        **lars_form(variant),
    )
    for step in range(arguments["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = float(lr[step])
        for i, parameter in enumerate(params):
            parameter.grad = arrays[f"in_grads_{i}"][step].clone()
        optimizer.step()
        for i, parameter in enumerate(params):
            np.testing.assert_allclose(
                parameter.detach(),
                arrays[f"out_params_{i}"][step],
                **meta["tolerance"]["when_run_in_float64"],
            )


def test_lars_pytorch__equals_barlow_twins_code():
    run_golden("barlow_twins_lars", "pytorch", lambda i, p, a: p.ndim == 1)


def test_lars_larc__equals_apex_code():
    run_golden("apex_larc_noclip", "larc", lambda i, p, a: p.ndim == 1, adapt_excluded=True)


def test_lars_classic__equals_simclr_code():
    def excluded(i, p, arguments):
        return any(word in arguments["names"][i] for word in arguments["excluded_patterns"])

    run_golden("simclr_tf_classic", "classic", excluded)


def test_lars_paper__equals_algorithm_1_by_hand():
    w = torch.tensor([[3.0, 4.0]], dtype=torch.float64)  # |w| = 5
    parameter = nn.Parameter(w.clone())
    optimizer = LARS([parameter], lr=0.5, momentum=0.9, weight_decay=0.1, trust_coefficient=0.02)
    velocity = torch.zeros_like(w)
    for lr, gradient in ((0.5, [[1.0, 0.0]]), (0.25, [[0.0, -2.0]])):
        g = torch.tensor(gradient, dtype=torch.float64)
        local = 0.02 * w.norm() / (g.norm() + 0.1 * w.norm())
        velocity = 0.9 * velocity + lr * local * (g + 0.1 * w)
        w = w - velocity
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = g
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), w, rtol=1e-14, atol=0)


def test_lars_nesterov__equals_simclr_formula_by_hand():
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0]]).double())
    optimizer = LARS([parameter], lr=0.5, trust_coefficient=0.1, nesterov=True)
    parameter.grad = torch.tensor([[2.0, 0.0]]).double()
    optimizer.step()
    # ratio .1*5/2 = .25; v = .5*.25*2 = .25; update = .9*.25 + .25 = .475
    torch.testing.assert_close(parameter.detach(), torch.tensor([[2.525, 4.0]]).double())


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("adapt", [False, True])
def test_lars_popular__equals_simclr_formula_by_hand(nesterov, adapt):
    w, parameter = np.array([3.0, 4.0]), nn.Parameter(torch.tensor([3.0, 4.0]).double())
    optimizer = LARS(
        [parameter],
        lr=0.5,
        momentum=0.9,
        weight_decay=0.1,
        trust_coefficient=0.02,
        nesterov=nesterov,
        adapt=adapt,
        scaled="update",
    )
    v = np.zeros(2)
    for lr, gradient in ((0.5, [1.0, 0.0]), (0.25, [0.0, -2.0]), (0.1, [0.5, 0.5])):
        decayed = np.array(gradient) + 0.1 * w
        v = 0.9 * v + decayed
        u = 0.9 * v + decayed if nesterov else v
        ratio = 0.02 * np.sqrt((w**2).sum()) / np.sqrt((u**2).sum()) if adapt else 1.0
        w = w - ratio * lr * u
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = torch.tensor(gradient).double()
        optimizer.step()
        np.testing.assert_allclose(parameter.detach(), w, rtol=1e-14)


def test_lars_popular__differs_from_classic_once_there_is_momentum():
    after = []
    for form in ({"scaled": "update"}, lars_form("classic")):
        parameter = nn.Parameter(torch.tensor([[3.0, 4.0]]).double())
        optimizer = LARS([parameter], lr=0.5, trust_coefficient=0.02, **form)
        for gradient in ([[1.0, 0.0]], [[0.0, 1.0]]):
            parameter.grad = torch.tensor(gradient).double()
            optimizer.step()
            after.append(parameter.detach().clone())
    torch.testing.assert_close(after[0], after[2], rtol=1e-14, atol=0)
    assert not torch.allclose(after[1], after[3], rtol=1e-4)


def test_lars_popular__is_a_variant_of_the_configuration():
    weight = nn.Linear(2, 1, bias=False)
    weight.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    config = LARSConfig(lr=0.5, lr_per=None, trust_coefficient=0.02, variant="popular")
    optimizer = build_optimizer(weight, config, batch_size=8)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    v, w = np.zeros(2), np.array([3.0, 4.0])
    for gradient in ([1.0, 0.0], [0.0, -2.0]):
        v = 0.9 * v + np.array(gradient)
        w = w - 0.5 * 0.02 * np.linalg.norm(w) / np.linalg.norm(v) * v
        weight.weight.grad = torch.tensor([gradient])
        optimizer.step()
    np.testing.assert_allclose(weight.weight.detach().numpy()[0], w, rtol=1e-6)


def test_lars_popular__refuses_settings_of_the_other_forms():
    with pytest.raises(ConfigError, match="clip, eps"):
        LARS([nn.Parameter(torch.ones(2))], lr=0.1, scaled="update", eps=1e-8, clip=True)


@pytest.mark.parametrize(("lr", "expected"), [(0.01, 0.01), (10.0, 0.25)])
def test_lars_clip__never_raises_the_learning_rate(lr, expected):
    # trust .1 * |w| 5 / |g| 2 = .25: clipping gives the step min(.25, lr) * g
    parameter = nn.Parameter(torch.tensor([[3.0, 4.0]]).double())
    form = {**lars_form("larc"), "clip": True, "eps": 0.0}
    optimizer = LARS([parameter], lr=lr, momentum=0.0, trust_coefficient=0.1, **form)
    parameter.grad = torch.tensor([[2.0, 0.0]]).double()
    optimizer.step()
    torch.testing.assert_close(parameter.detach()[0, 0], torch.tensor(3 - expected * 2).double())


def test_lars__zero_weight_or_gradient_stays_finite():
    for form in map(lars_form, get_args(LARSVariant)):
        zero = nn.Parameter(torch.zeros(2, 2))
        still = nn.Parameter(torch.ones(2, 2))
        optimizer = LARS([zero, still], lr=0.1, weight_decay=0.0, **form)
        zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
        optimizer.step()
        torch.testing.assert_close(zero.detach(), torch.full((2, 2), -0.1))
        torch.testing.assert_close(still.detach(), torch.ones(2, 2))


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))


def test_parameter_groups__keep_biases_and_norms_apart():
    weights, rest = parameter_groups(net(), LARSConfig(lr=0.2, lr_excluded=0.0048))
    assert [tuple(p.shape) for p in weights["params"]] == [(4, 3), (2, 4)]
    assert [tuple(p.shape) for p in rest["params"]] == [(4,), (4,), (4,)]
    assert rest["weight_decay"] == 0.0
    assert rest["adapt"] is False
    assert (weights["peak"], rest["peak"]) == (0.2, 0.0048)


def test_parameter_groups__leave_frozen_parameters_out():
    module = net()
    module[0].requires_grad_(False)
    groups = parameter_groups(module, SGDConfig(lr=0.1))
    assert sum(len(group["params"]) for group in groups) == 3


@pytest.mark.parametrize("config", [SGDConfig, AdamConfig, AdamWConfig, LARSConfig])
def test_build_optimizer__scales_the_rate_by_the_batch(config):
    optimizer = build_optimizer(net(), config(lr=0.1, weight_decay=0.3), batch_size=512)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    optimizer = build_optimizer(net(), config(lr=0.1, lr_per=None), batch_size=512)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_build_optimizer__can_scale_by_the_root_of_the_batch():
    # SimCLR v2: 0.1 sqrt(4096) = 6.4 and 0.1 sqrt(256) = 1.6
    for batch_size, expected in ((256, 1.6), (4096, 6.4)):
        config = LARSConfig(lr=1.6, lr_growth="root")
        optimizer = build_optimizer(net(), config, batch_size=batch_size)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_set_rates__move_the_weight_decay_along_half_a_cosine():
    config = AdamWConfig(lr=0.1, lr_per=None, weight_decay=0.04, final_weight_decay=0.4)
    optimizer = build_optimizer(net(), config, batch_size=256)
    weights, rest = optimizer.param_groups
    for fraction, expected in ((0.0, 0.04), (1 / 3, 0.13), (0.5, 0.22), (1.0, 0.4)):
        set_rates(optimizer, config, share=0.5, fraction=fraction)
        assert weights["weight_decay"] == pytest.approx(expected)
        assert (weights["lr"], rest["lr"], rest["weight_decay"]) == (0.05, 0.05, 0.0)
