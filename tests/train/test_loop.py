import multiprocessing
import os
import random
import re
import signal

import pytest
import torch
from tests.train.toy import Toy, ToySource, toy_config

from scoutview.base.errors import ConfigError, RunError
from scoutview.results.provenance import environment
from scoutview.results.run import RunFolder
from scoutview.train.checkpoint import EnvironmentChanged, checkpoint_files, latest_checkpoint
from scoutview.train.devices import start_fabric
from scoutview.train.loop import fit
from scoutview.train.monitor import CollapseMonitor
from scoutview.train.signals import TrainingStoppedError

IMAGES = 32


def train(folder, config=None, *, resume=False, objective=None, source=None, **arguments):
    config = config or toy_config()
    objective = objective or Toy()
    if resume:
        run = RunFolder.open(folder)
    else:
        run = RunFolder.create(folder, config.model_dump(mode="json"), environment())
    fabric = start_fabric(config)
    source = source or ToySource(config.part_size)
    fitted = fit(
        objective,
        source,
        config,
        run,
        fabric=fabric,
        dataset_size=IMAGES,
        resume=resume,
        **arguments,
    )
    return objective, run, fitted


def killed(folder, config, step, work=None):
    """Train in another process that SIGKILLs itself just before a step."""
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=work or die_at, args=(folder, config, step))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL


def die_at(folder, config, step):
    torch.set_num_threads(1)
    objective = Toy()
    forward = objective.forward

    def dying(batch, progress):
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(batch, progress)

    objective.forward = dying
    train(folder, config, objective=objective)


def assert_equal_state(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
        assert value.stride() == theirs[name].stride(), name


def test_fit__lowers_the_loss_and_writes_metrics(tmp_path):
    _, run, fitted = train(tmp_path / "run", toy_config(samples=8 * 60))
    metrics = run.metrics()
    assert fitted.steps == 60
    assert fitted.samples_seen == 480
    assert metrics["loss"].iloc[-5:].mean() < metrics["loss"].iloc[:5].mean()
    assert metrics["step"].tolist() == sorted({*range(3, 61, 3), *range(2, 61, 2)})
    assert metrics["samples_seen"].iloc[-1] == 480
    assert metrics["epoch"].iloc[-1] == 15
    assert {"images_per_s", "data_wait", "lr", "accuracy", "time_s"} <= set(metrics)


def test_fit__equals_a_loop_written_by_hand(tmp_path):
    from scoutview.contract import Progress
    from scoutview.train.optimizers import build_optimizer
    from scoutview.train.schedules import rate

    config = toy_config(channels_last=False, samples=8 * 6, clip_norm=0.5, accumulate=2)
    trained, _, _ = train(tmp_path / "run", config)

    objective, source = Toy(), ToySource(4)
    optimizer = build_optimizer(objective, config.optimizer, batch_size=8)
    torch.manual_seed(0)
    objective.train()
    for step in range(6):
        progress = Progress(step, 6, step // 4, 2, IMAGES)
        if step % 4 == 0:
            objective.between_epochs(None, progress)
        for group in optimizer.param_groups:
            group["lr"] = 1.0 * rate(config.schedule, step, total_steps=6, steps_per_epoch=4)
        for part in range(2):
            (objective(source.batch(2 * step + part), progress).loss / 2).backward()
        ordered = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(ordered, 0.5)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_update(progress)
    assert_equal_state(trained, objective)


def test_fit__tells_the_length_of_an_epoch_that_the_budget_does_not_reach(tmp_path):
    class Curious(Toy):
        def after_update(self, progress):
            super().after_update(progress)
            seen.append((progress.steps_per_epoch, progress.epochs, progress.within(0.25)))

    seen = []
    train(tmp_path / "run", toy_config(samples=16), objective=Curious())
    assert seen == [(4, 0.5, True), (4, 0.5, False)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16-mixed", "channels_last": True},
        {"accumulate": 2, "clip_norm": 1.0},
    ],
    ids=["plain", "channels-last bf16 LARS", "accumulated"],
)
def test_fit__killed_and_resumed_is_bit_equal(tmp_path, changes):
    config = toy_config(**changes)
    whole, run, _ = train(tmp_path / "whole", config)
    step = random.Random(len(str(changes))).randrange(3, 12)
    print(f"killed at step {step}")
    killed(tmp_path / "killed", config, step)
    resumed, again, _ = train(tmp_path / "killed", config, resume=True)
    assert_equal_state(whole, resumed)
    columns = ["step", "loss", "lr", "accuracy"]
    left, right = run.metrics(), again.metrics()
    merged = left.merge(right, on="step", suffixes=("", "_resumed"))
    assert left[columns].equals(right[columns]), merged


def test_fit__alarms_from_before_a_stop_are_kept(tmp_path):
    class Stopping(Toy):
        def forward(self, batch, progress):
            if progress.step == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(batch, progress)

    def monitor():
        return CollapseMonitor(batch_size=8, dataset_size=IMAGES, queue_size=IMAGES + 1)

    _, _, whole = train(tmp_path / "whole", monitor=monitor())
    with pytest.raises(TrainingStoppedError):
        train(tmp_path / "run", objective=Stopping(), monitor=monitor())
    _, _, resumed = train(tmp_path / "run", resume=True, monitor=monitor())
    assert whole.alarms == ("batch_too_small", "queue_longer_than_data")
    assert resumed.alarms == whole.alarms


def test_fit__resume_without_checkpoint_starts_anew(tmp_path):
    config = toy_config(checkpoint_every=None)
    killed(tmp_path / "run", config, 5)
    whole, _, _ = train(tmp_path / "whole", config)
    resumed, run, _ = train(tmp_path / "run", config, resume=True)
    assert_equal_state(whole, resumed)
    assert run.metrics()["step"].tolist() == [3, 6, 9, 12]


def test_fit__sigterm_saves_and_says_how_to_go_on(tmp_path):
    class Stopping(Toy):
        def forward(self, batch, progress):
            if progress.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(batch, progress)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStoppedError, match=r"stopped by SIGTERM after step 5.*--resume"):
        train(tmp_path / "run", objective=Stopping())
    assert signal.getsignal(signal.SIGTERM) is before
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").step == 5
    whole, _, _ = train(tmp_path / "whole")
    resumed, _, _ = train(tmp_path / "run", resume=True)
    assert_equal_state(whole, resumed)


def test_fit__logs_that_come_now_and_then_are_averaged_over_their_own_steps(tmp_path):
    class Sometimes(Toy):
        def forward(self, batch, progress):
            output = super().forward(batch, progress)
            extra = {"rare": torch.tensor(float(progress.step))} if progress.step % 2 else {}
            return type(output)(output.loss, extra)

    config = toy_config(log_every=4, checkpoint_every=None)
    _, run, _ = train(tmp_path / "run", config, objective=Sometimes())
    assert run.metrics()["rare"].tolist() == [2.0, 6.0, 10.0]


def test_fit__leaves_the_process_as_it_was(tmp_path):
    train(tmp_path / "run")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_fit__keeps_two_checkpoints(tmp_path):
    _, run, _ = train(tmp_path / "run")
    assert [path.name for path in checkpoint_files(run.checkpoints)] == [
        "step-0000000010.safetensors",
        "step-0000000012.safetensors",
    ]


def test_fit__another_environment_is_a_named_warning(tmp_path):
    config = toy_config()
    killed(tmp_path / "run", config, 6)
    run = RunFolder.open(tmp_path / "run")
    from scoutview.results import run as results_run

    changed = {**run.environment, "python": "2.7.18"}
    results_run._write(run.path / "environment.json", "environment", changed)
    with pytest.warns(EnvironmentChanged) as told:
        train(tmp_path / "run", config, resume=True)
    (warning,) = told
    assert re.search(r"python was 2\.7\.18, is \d", str(warning.message)) is not None
    assert run.metrics()["step"].iloc[-1] == config.total_steps(IMAGES), (
        "a difference stops nothing"
    )


def test_fit__a_loss_that_is_not_finite_stops(tmp_path):
    class Broken(Toy):
        def forward(self, batch, progress):
            output = super().forward(batch, progress)
            return type(output)(output.loss * float("nan"))

    with pytest.raises(RunError, match="loss is nan at step 2"):
        train(tmp_path / "run", objective=Broken())


def test_config__says_what_would_work():
    with pytest.raises(ConfigError, match="largest that works is 5"):
        toy_config().steps_per_epoch(5)
    with pytest.raises(ConfigError, match="next that works is 9"):
        _ = toy_config(accumulate=3).part_size
    with pytest.raises(ConfigError, match="exactly one of samples and epochs"):
        type(toy_config()).build({"samples": 3, "epochs": 2})


def test_start_fabric__names_missing_gpus():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="1 GPUs are asked for, PyTorch sees 0"):
        start_fabric(toy_config(accelerator="gpu"))


def test_start_fabric__refuses_fp16_on_the_cpu():
    with pytest.raises(ConfigError, match="'16-mixed' needs a GPU"):
        start_fabric(toy_config(precision="16-mixed"))
