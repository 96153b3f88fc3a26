import json
from pathlib import Path

import numpy as np
import pytest
from tests.golden.adapters_schedules import trained

from scoutview.nn.optim_config import (
    ConstantSchedule,
    CosineSchedule,
    CyclicCosineSchedule,
    StepSchedule,
)
from scoutview.nn.teacher import cosine_momentum
from scoutview.train import schedules

GOLDEN = Path(__file__).parent.parent / "golden" / "schedules"


def check(name, function, output="out_lr"):
    meta = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        steps, expected = arrays["in_steps"], arrays[output]
    values = [function(step, meta["arguments"]) for step in steps.tolist()]
    np.testing.assert_allclose(values, expected, **meta["tolerance"]["when_run_in_float64"])


def test_barlow_twins_lr__equals_the_original_code():
    def both(step, a):
        return [schedules.barlow_twins_lr(step, **a, base_lr=lr) for lr in (0.2, 0.0048)]

    check("barlow_twins_warmup_cosine", both)


def test_byol_lr__equals_the_original_code():
    check("byol_lr", lambda step, a: schedules.byol_lr(step, **a))


def test_lovt_cyclic_cosine__equals_the_original_code():
    check(
        "cyclic_cosine_lovt",
        lambda step, a: schedules.lovt_cyclic_cosine(
            step, lr=a["lr"], period=a["T_max"], eta_min=a["eta_min"]
        ),
    )


def test_snapshot_cyclic_cosine__equals_the_original_code():
    check("cyclic_cosine_snapshot", lambda step, a: schedules.snapshot_cyclic_cosine(step, **a))


def test_moco_lr__equals_the_original_code():
    check("moco_cosine", lambda epoch, a: schedules.moco_lr(epoch, **a))


def test_moco_lr__steps_down_at_milestones():
    rates = [schedules.moco_lr(e, lr=0.03, epochs=200, cos=False) for e in (0, 119, 120, 160)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.0003])


def test_moco_v3__lr_and_momentum_equal_the_original_code():
    name = "moco_v3_lr_and_momentum"
    check(
        name,
        lambda e, a: schedules.moco_v3_lr(e, lr=a["lr"], epochs=a["epochs"], warmup=a["warmup"]),
    )
    check(name, lambda e, a: cosine_momentum(a["m"], e / a["epochs"]), "out_momentum")


def test_sgdr_lr__equals_the_original_code():
    check(
        "sgdr_warm_restarts",
        lambda step, a: schedules.sgdr_lr(
            step,
            lr=a["lr"],
            first_period=a["T_0"],
            multiplier=a["T_mult"],
            eta_min=a["eta_min"],
        ),
    )


def test_swav_lr__equals_the_original_code():
    def swav(step, a):
        return schedules.swav_lr(
            step,
            base_lr=a["base_lr"],
            final_lr=a["final_lr"],
            start_warmup=a["start_warmup"],
            warmup_steps=a["warmup_epochs"] * a["steps_per_epoch"],
            total=a["epochs"] * a["steps_per_epoch"],
        )

    check("swav_warmup_cosine", swav)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
def test_rate__expresses_every_golden_schedule(file):
    meta = json.loads(file.read_text())
    training = trained(meta["arguments"])
    assert training is not None
    with np.load(file.with_suffix(".npz")) as arrays:
        steps, expected = arrays["in_steps"], arrays["out_lr"]
    found = np.array([training.at(step) for step in steps.tolist()]).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, **meta["tolerance"]["when_run_in_float64"])


def test_rate__gives_the_named_schedules():
    def at(config, *steps):
        return [schedules.rate(config, s, total_steps=100, steps_per_epoch=10) for s in steps]

    assert at(CosineSchedule(warmup_epochs=2), 0, 10, 20, 60, 100) == pytest.approx(
        [0, 0.5, 1, 0.5, 0]
    )
    assert at(CosineSchedule(per="epoch"), 0, 9, 50, 59) == pytest.approx([1, 1, 0.5, 0.5])
    swav = CosineSchedule(form="swav", warmup_epochs=2, start=0.1, final=0.001)
    assert at(swav, 0, 19, 20) == pytest.approx([0.1, 1, 1])
    assert at(StepSchedule(milestones=(5, 7.5)), 0, 49, 50, 75) == pytest.approx([1, 1, 0.1, 0.01])
    assert at(ConstantSchedule(warmup_epochs=1), 0, 5, 99) == pytest.approx([0, 0.5, 1])
    mirrored = CyclicCosineSchedule(restart=False)
    assert at(mirrored, 0, 10, 15, 20) == pytest.approx([1, 0, 0.5, 1], abs=1e-12)
    assert at(CyclicCosineSchedule(growth=2), 10, 20, 30) == pytest.approx([1, 0.5, 1])


def test_rate__a_warmup_of_most_of_the_training_is_taken_as_it_is():
    config = CosineSchedule(warmup_epochs=3)
    rates = [schedules.rate(config, s, total_steps=40, steps_per_epoch=10) for s in range(41)]
    assert max(rates) == rates[30] == 1
    assert rates[40] == 0
