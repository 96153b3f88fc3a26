import pytest
import torch
from tests.train.toy import Toy, ToySource, toy_config

from scoutview.base.errors import ConfigError
from scoutview.nn.optim_config import (
    ConstantSchedule,
    CosineSchedule,
    CyclicCosineSchedule,
    StepSchedule,
)
from scoutview.train.config import FitConfig
from scoutview.train.devices import start_fabric
from scoutview.train.preflight import Estimate, check_budget, estimate, fit_batch, fit_warmup


def test_check_budget__names_what_looks_unintended():
    assert check_budget(toy_config(epochs=10, samples=None), 32) == []
    (less,) = check_budget(toy_config(samples=16), 32)
    assert "2 steps is less than one epoch of 4" in less
    never = toy_config(epochs=10, samples=None, schedule=StepSchedule(milestones=(5, 50)))
    assert "[50.0] lie beyond" in check_budget(never, 32)[0]
    assert "7 of 39 images do not fill" in check_budget(toy_config(epochs=9, samples=None), 39)[0]


def test_fit_batch__lowers_the_default_only():
    config, (note,) = fit_batch(FitConfig(epochs=1), 104)
    assert config.batch_size == 64
    assert note == "batch_size lowered from 256 to 64, because there are 104 training images."
    assert fit_batch(FitConfig(epochs=1), 256) == (FitConfig(epochs=1), [])
    written = FitConfig(epochs=1, batch_size=256)
    assert fit_batch(written, 104) == (written, [])
    few, _ = fit_batch(FitConfig(epochs=1, devices=4), 3)
    with pytest.raises(ConfigError, match="multiple of"):
        check_budget(few, 3)


@pytest.mark.parametrize("kind", [CosineSchedule, ConstantSchedule, StepSchedule])
def test_fit_warmup__lowers_defaults_and_refuses_what_never_ends(kind):
    def fitted(epochs, *, written, total=41):
        schedule = kind(warmup_epochs=epochs)
        return fit_warmup(schedule, total_steps=total, steps_per_epoch=10, written=written)

    assert fitted(2, written=False) == (kind(warmup_epochs=2), [])
    schedule, (note,) = fitted(3, written=False)
    assert schedule.warmup_epochs == 2
    assert note == (
        "schedule.warmup_epochs lowered from 3 to 2, because the training has 4.1 epochs."
    )
    assert fitted(3, written=True) == (kind(warmup_epochs=3), [])
    with pytest.raises(ConfigError, match=r"of 4\.1 epochs, at 4 or less, got 5;"):
        fitted(5, written=True)
    assert fitted(1, written=False, total=1)[0].warmup_epochs == 0


def test_fit_warmup__has_nothing_to_say_where_there_is_none():
    for schedule in (CosineSchedule(), CyclicCosineSchedule()):
        assert fit_warmup(schedule, total_steps=1, steps_per_epoch=1, written=True) == (
            schedule,
            [],
        )


def test_estimate__counts_memory_and_leaves_no_trace():
    objective, source = Toy(), ToySource(8)
    config = toy_config(channels_last=False)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    random = torch.get_rng_state()
    found = estimate(
        objective,
        source.batch(0),
        lambda batch: batch,
        config,
        fabric=start_fabric(config),
        dataset_size=32,
    )
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert all(p.grad is None for p in objective.parameters())
    weights = sum(p.nbytes for p in objective.parameters())
    images = 2 * 8 * 24 * 24 * 4  # the first convolution keeps its input
    assert found.memory_bytes > 3 * weights + images  # weights, gradients, momentum
    assert found.memory_bytes < 3 * weights + 60 * images
    assert found.total_s == pytest.approx(12 * found.step_s)
    assert found.warm


def test_estimate__of_few_steps_is_an_upper_bound():
    steps = []

    class Counting(Toy):
        def forward(self, batch, progress):
            steps.append(progress.total_steps)
            return super().forward(batch, progress)

    config = toy_config(samples=16)
    found = estimate(
        Counting(),
        ToySource(8).batch(0),
        lambda batch: batch,
        config,
        fabric=start_fabric(config),
        dataset_size=32,
    )
    assert steps == [2]
    assert "at most" in str(found)


def test_estimate__is_readable():
    text = str(Estimate(step_s=0.25, total_s=3725.4, memory_bytes=3 * 2**29))
    assert text == "Estimate: 250 ms a step without data, 1:02:05 h in all, 1.50 GiB per process."
