import importlib.resources
import json
import logging
import multiprocessing
import os
import random
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.cohorts import radiograph_cohort, write_radiographs
from tests.methods.objectives import small_config
from tests.processes import run_ranks

from scoutview.api.index import index
from scoutview.api.pretrain import PretrainConfig, pretrain, written_settings
from scoutview.api.store import store
from scoutview.base.errors import ConfigError, RunError
from scoutview.base.lock import alone
from scoutview.contract import StepOutput
from scoutview.index.config import IndexConfig
from scoutview.methods import METHODS, config_class, method_class
from scoutview.methods.hybrid import HybridConfig
from scoutview.methods.simclr import SimCLR
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.nn.losses.contrastive import nt_xent
from scoutview.results.run import RunFolder
from scoutview.store.reader import MANIFEST
from scoutview.train.checkpoint import latest_checkpoint
from scoutview.train.loop import fit
from scoutview.train.signals import TrainingStoppedError

TINY = BackboneConfig(
    name="resnet10t", small_stem=True, stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1)
)
PARTS = (("train", 96), ("val", 40), ("test", 8))


def tiny_config(**changes):
    values = {
        "epochs": 2,
        "batch_size": 32,
        "backbone": TINY,
        "accelerator": "cpu",
        "log_every": 1,
        "checkpoint_every": 1,
        "probe_every": 1,
        "progress": False,
    }
    return PretrainConfig(**{**values, **changes})


def make_cohort(folder):
    """Real radiographs of the demo set in the layout of MedMNIST."""
    demo = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    arrays = {}
    with importlib.resources.as_file(demo) as path, np.load(path) as whole:
        for part, count in PARTS:
            pick = np.random.default_rng(1).permutation(len(whole[f"{part}_images"]))[:count]
            arrays[f"{part}_images"] = whole[f"{part}_images"][pick]
            arrays[f"{part}_labels"] = whole[f"{part}_labels"][pick]
    folder.mkdir()
    np.savez(folder / "set.npz", **arrays)
    return index(folder / "set.npz", folder / "cohort")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("pretrain") / "set")


def small(name, **changes):
    """Settings of a method with small heads, whichever of them it has."""
    values = {"hidden_dim": 32, "output_dim": 16} | changes
    kind = config_class(name)
    return kind(**{key: v for key, v in values.items() if key in kind.model_fields})


@pytest.mark.parametrize("name", ["deepcluster_v2", "simclr", "supervised"])
def test_pretrain__writes_a_complete_run(name, cohort, tmp_path):
    path = pretrain(cohort, name, tmp_path / "run", config=tiny_config(), settings=small(name))
    run = RunFolder.open(path)
    assert (cohort / "store" / MANIFEST).is_file()
    summary = run.summary()
    assert summary["samples_seen"] == 192
    assert summary["steps"] == 6
    metrics = run.metrics()
    assert metrics["loss"].notna().all()
    probed = metrics.dropna(subset=["knn_auc", "linear_auc"])
    assert probed["step"].tolist() == [3, 6]
    assert probed["knn_auc"].between(0, 1).all()
    values = run.config
    assert values["method"]["name"] == name
    assert values["seed"] == 0
    assert (path / values["cohort"]).resolve() == cohort.resolve()
    assert values["data"]["split"] == "train"
    assert values["view"]["size"] == 28
    assert summary["notes"][: len(values["notes"])] == values["notes"]
    assert "192 samples seen" in run.model_card.read_text()
    assert "Estimate:" in run.log.read_text()
    with safe_open(run.backbone, "pt") as file:
        metadata = file.metadata()
    assert metadata["method"] == name
    assert BackboneConfig.build(json.loads(metadata["backbone"])) == TINY


def test_pretrain__backbone_file_holds_the_last_checkpoint(cohort, tmp_path):
    run = RunFolder.open(pretrain(cohort, "simclr", tmp_path / "run", config=tiny_config()))
    saved = load_file(run.backbone)
    tensors = latest_checkpoint(run.checkpoints).tensors
    assert all(torch.equal(v, tensors[f"model.backbone.model.{k}"]) for k, v in saved.items())
    loaded = build_backbone(TINY.model_copy(update={"weights": str(run.backbone)}))
    assert all(torch.equal(v, saved[k]) for k, v in loaded.model.state_dict().items())


def test_pretrain__small_data_defaults_are_said_and_recorded(cohort, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="scoutview"):
        path = pretrain(cohort, "moco_v2", tmp_path / "run", config=tiny_config())
    values = RunFolder.open(path).config
    assert values["method"]["queue_length"] == 96
    assert values["method"]["views"]["size"] == 28
    assert any("queue_length lowered from 65536 to 96" in note for note in values["notes"])
    assert "queue_length lowered from 65536 to 96" in caplog.text


def test_pretrain__settings_written_in_part_keep_the_rest_of_the_method(cohort, tmp_path):
    config = PretrainConfig.build(
        tiny_config(epochs=1, probe_every=None).written() | {"optimizer": {"lr": 0.1}}
    )
    settings = config_class("barlow_twins").build(
        {"hidden_dim": 16, "output_dim": 8, "schedule": {"start": 0.5}}
    )
    values = RunFolder.open(
        pretrain(cohort, "barlow_twins", tmp_path / "run", config=config, settings=settings)
    ).config
    assert values["optimizer"] == {
        **values["method"]["optimizer"], "lr": 0.1
    }, "LARS with the method's own rate for biases"  # fmt: skip
    assert (values["optimizer"]["kind"], values["optimizer"]["lr_excluded"]) == ("lars", 0.0048)
    assert values["schedule"] == values["method"]["schedule"]
    assert values["schedule"]["final"] == 0.001
    assert values["schedule"]["warmup_epochs"] == pytest.approx(1 / 3), "a step of three"
    assert any("schedule.warmup_epochs lowered from 10 to 0.33" in n for n in values["notes"])
    longer = config_class("barlow_twins").build({"schedule": {"warmup_epochs": 1}})
    with pytest.raises(ConfigError, match=r"schedule\.warmup_epochs must end before"):
        pretrain(cohort, "barlow_twins", tmp_path / "long", config=config, settings=longer)
    assert not (tmp_path / "long").exists()


def test_pretrain__what_was_written_makes_the_same_run_again(cohort, tmp_path):
    config = tiny_config(epochs=1, probe_every=None)
    settings = config_class("moco_v2")(output_dim=8)  # its queue is longer than the data
    first = RunFolder.open(
        pretrain(cohort, "moco_v2", tmp_path / "a", config=config, settings=settings)
    )
    assert first.config["method"]["queue_length"] < settings.queue_length
    again, method = written_settings(first.path)
    assert (again, method) == (config, settings)
    assert again.model_fields_set == config.model_fields_set
    assert method.model_fields_set == settings.model_fields_set
    second = RunFolder.open(
        pretrain(cohort, "moco_v2", tmp_path / "b", config=again, settings=method)
    )
    assert second.config == first.config
    one, other = load_file(first.backbone), load_file(second.backbone)
    assert all(torch.equal(one[key], other[key]) for key in one | other)
    full = config_class("moco_v2").build(json.loads(settings.model_dump_json()))
    with pytest.raises(ConfigError, match="queue_length must be at most"):
        pretrain(cohort, "moco_v2", tmp_path / "c", config=config, settings=full)
    with pytest.raises(RunError, match="does not say what its user wrote"):
        written_settings(run_of_another_verb(tmp_path / "d"))


def run_of_another_verb(folder):
    return RunFolder.create(folder, {"verb": "transfer"}, {}).path


def test_pretrain__a_written_value_is_refused_not_changed(cohort, tmp_path):
    settings = config_class("moco_v2")(queue_length=4096)
    with pytest.raises(ConfigError, match="at most 96"):
        pretrain(cohort, "moco_v2", tmp_path / "run", config=tiny_config(), settings=settings)
    with pytest.raises(ConfigError, match="largest that works is 96"):
        pretrain(cohort, "simclr", tmp_path / "run", config=tiny_config(batch_size=128))
    assert not (tmp_path / "run").exists()


class RenamedHead(SimCLR):
    """A self-supervised method whose head has a name of its own."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.head = self.projector
        del self.projector

    def forward(self, batch, progress):
        features = self.backbone(torch.cat(batch.views))
        return StepOutput(nt_xent(*self.head(features).chunk(2), temperature=0.1))


def test_pretrain__watches_every_self_supervised_objective(cohort, tmp_path, monkeypatch):
    def planted(name, backbone, config, **arguments):
        return RenamedHead(backbone, config)

    config = tiny_config(epochs=None, samples=16, batch_size=8, probe_every=None)
    monkeypatch.setattr("scoutview.api.pretrain.build", planted)
    run = RunFolder.open(pretrain(cohort, "simclr", tmp_path / "run", config=config))
    assert run.summary()["alarms"] == ["batch_too_small"]
    monkeypatch.undo()
    run = RunFolder.open(pretrain(cohort, "supervised", tmp_path / "labels", config=config))
    assert run.summary()["alarms"] == []


def test_pretrain__a_step_that_fails_leaves_no_folder(cohort, tmp_path, monkeypatch):
    """A method without features shows only when hybrid training first runs it."""
    monkeypatch.setattr("scoutview.api.pretrain.build", lambda *a, **_: RenamedHead(*a[1:]))
    config = tiny_config(epochs=None, samples=16, batch_size=8, hybrid=HybridConfig())
    with pytest.raises(ConfigError, match="features with their graph"):
        pretrain(cohort, "simclr", tmp_path / "run", config=config)
    assert not (tmp_path / "run").exists()


def six_steps(name):
    """Two epochs of three steps; parts of 8 images raise an alarm before the first one."""
    config = tiny_config(accumulate=4, probe_every=2)
    return {"config": config, "settings": small_config(name, queue_length=32)}


def run_and_die(cohort, name, folder, at):
    import scoutview.api.pretrain as module

    torch.set_num_threads(1)

    def dying(objective, *arguments, **named):
        forward = objective.forward

        def count(batch, progress):
            if progress.step == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(batch, progress)

        objective.forward = count
        return fit(objective, *arguments, **named)

    module.fit = dying
    pretrain(cohort, name, folder, **six_steps(name))


@pytest.mark.parametrize("name", sorted(METHODS)[::2])  # all of them in test_resume_methods
def test_pretrain__killed_and_resumed_is_bit_equal(name, cohort, tmp_path):
    step = random.Random(name).randrange(2, 6)
    print(f"{name} is killed at step {step}")
    store(cohort)  # once, before two processes ask for it
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=run_and_die, args=(cohort, name, tmp_path / "killed", step))
    child.start()
    torch.set_num_threads(1)
    whole = pretrain(cohort, name, tmp_path / "whole", **six_steps(name))
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    resumed = pretrain(resume=tmp_path / "killed")
    one, other = RunFolder.open(whole), RunFolder.open(resumed)
    for left, right in (
        (load_file(one.backbone), load_file(other.backbone)),
        (latest_checkpoint(one.checkpoints).tensors, latest_checkpoint(other.checkpoints).tensors),
    ):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    columns = ["step", "loss", "lr", "knn_auc", "linear_auc", "samples_seen"]
    assert one.metrics()[columns].equals(other.metrics()[columns])
    watched = method_class(name).self_supervised
    assert one.summary()["alarms"] == (["batch_too_small"] if watched else [])
    assert other.summary()["alarms"] == one.summary()["alarms"]
    assert other.model_card.read_text() == one.model_card.read_text()
    with pytest.raises(RunError, match="has finished"):
        pretrain(resume=resumed)


def test_pretrain__resumes_with_the_same_images_and_alone(tmp_path, monkeypatch):
    cohort = make_cohort(tmp_path / "first")
    config = tiny_config(epochs=1, probe_every=None)
    settings = small_config("simclr")

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scoutview.api.pretrain.fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrain(cohort, "simclr", tmp_path / "run", config=config, settings=settings)
    other = make_cohort(tmp_path / "other")  # the same images under another key
    with pytest.raises(RunError, match="begun on other images than the 96"):
        pretrain(other, resume=tmp_path / "run")
    with alone(tmp_path / "run", "training"), pytest.raises(RunError, match="Another training"):
        pretrain(resume=tmp_path / "run")
    assert RunFolder.open(pretrain(resume=tmp_path / "run")).finished


def test_pretrain__with_views_on_the_device_resumes_bit_equal(cohort, tmp_path, monkeypatch):
    import scoutview.api.pretrain as module

    class KilledError(Exception):
        pass

    def dying(objective, *arguments, **named):
        forward = objective.forward

        def count(batch, progress):
            if progress.step == 4:
                raise KilledError
            return forward(batch, progress)

        objective.forward = count
        return fit(objective, *arguments, **named)

    config = tiny_config(views_on="device", probe_every=2)
    settings = {"config": config, "settings": small_config("simclr")}
    whole = RunFolder.open(pretrain(cohort, "simclr", tmp_path / "whole", **settings))
    monkeypatch.setattr(module, "fit", dying)
    with pytest.raises(KilledError):
        pretrain(cohort, "simclr", tmp_path / "killed", **settings)
    monkeypatch.setattr(module, "fit", fit)
    resumed = RunFolder.open(pretrain(resume=tmp_path / "killed"))
    one, other = load_file(whole.backbone), load_file(resumed.backbone)
    assert all(torch.equal(one[key], other[key]) for key in one | other)
    columns = ["step", "loss", "lr", "knn_auc", "linear_auc"]
    assert whole.metrics()[columns].equals(resumed.metrics()[columns])
    on_cpu = {"config": tiny_config(probe_every=2), "settings": small_config("simclr")}
    cpu = RunFolder.open(pretrain(cohort, "simclr", tmp_path / "cpu", **on_cpu))
    first = [run.metrics()["loss"].iloc[0] for run in (whole, cpu)]
    assert first[0] == pytest.approx(first[1], rel=5e-3)
    assert first[0] != first[1], "made by the other kernel"


def test_pretrain__a_signal_stops_it_and_resume_finishes(cohort, tmp_path, monkeypatch):
    import scoutview.api.pretrain as module

    def interrupted(objective, *arguments, **named):
        forward = objective.forward

        def signalling(batch, progress):
            if progress.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return forward(batch, progress)

        objective.forward = signalling
        return fit(objective, *arguments, **named)

    monkeypatch.setattr(module, "fit", interrupted)
    with pytest.raises(TrainingStoppedError, match="SIGINT after step 3"):
        pretrain(cohort, "simclr", tmp_path / "run", config=tiny_config())
    monkeypatch.setattr(module, "fit", fit)
    run = RunFolder.open(tmp_path / "run")
    assert not run.finished
    assert RunFolder.open(pretrain(resume=run.path)).finished


def test_pretrain__says_what_is_missing(cohort, tmp_path):
    with pytest.raises(ConfigError, match="needs a cohort, a method"):
        pretrain(cohort)
    with pytest.raises(ConfigError, match="resume takes everything"):
        pretrain(method="simclr", resume=tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'simclr'"):
        pretrain(cohort, "simcrl", tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").write_text("x")
    with pytest.raises(RunError, match="not empty"):
        pretrain(cohort, "simclr", tmp_path / "run", config=tiny_config())


def test_config__samples_replace_the_default_epochs():
    assert PretrainConfig(samples=1000).epochs is None
    assert PretrainConfig().epochs == 100
    assert PretrainConfig.build(PretrainConfig(samples=9).model_dump(mode="json")).samples == 9
    with pytest.raises(ConfigError, match="exactly one"):
        PretrainConfig.build({"samples": 9, "epochs": 3})


def as_rank(cohort, folder, devices):
    """Pre-train as one of the processes of a group that stands already, or alone."""
    torch.set_num_threads(1)
    if devices > 1:
        rank = str(torch.distributed.get_rank())
        os.environ |= {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": str(devices),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
            "TORCHELASTIC_RUN_ID": "test",
        }
    config = tiny_config(devices=devices, precision="64-true", epochs=1)
    return pretrain(cohort, "simclr", folder, config=config, settings=small("simclr"))


@pytest.mark.ddp
def test_pretrain__two_processes_equal_one(cohort, tmp_path):
    store(cohort)  # workers of a pool cannot start the store's processes; torchrun's can
    run_ranks(as_rank, 2, cohort, tmp_path / "two", 2)
    as_rank(cohort, tmp_path / "one", 1)
    one, two = (RunFolder.open(tmp_path / name) for name in ("one", "two"))
    assert two.metrics()["step"].tolist() == [1, 2, 3]
    # metrics are float32, whatever the precision of the training
    np.testing.assert_allclose(one.metrics()["loss"], two.metrics()["loss"], rtol=3e-7)
    left, right = load_file(one.backbone), load_file(two.backbone)
    for name, tensor in left.items():
        torch.testing.assert_close(right[name], tensor, rtol=1e-7, atol=1e-9, msg=name)


def test_pretrain__goes_without_probes_where_validation_has_no_labels(tmp_path, caplog):
    source = write_radiographs(tmp_path / "set.npz", {"train": 40, "val": 8, "test": 8})
    with np.load(source) as whole:
        arrays = {name: whole[name] for name in whole.files}
    arrays["val_labels"] = np.full(arrays["val_labels"].shape, np.nan)
    np.savez(source, **arrays)
    cohort = index(source, tmp_path / "cohort", config=IndexConfig(workers=1))
    chosen = tiny_config(epochs=1, batch_size=20)
    with caplog.at_level(logging.INFO, logger="scoutview"):
        run = pretrain(cohort, "simclr", tmp_path / "run", config=chosen)
    assert "No kNN and linear probes" in caplog.text
    assert not any("knn" in name for name in RunFolder.open(run).metrics().columns)


def test_pretrain__records_the_intensity_of_each_kind_of_image(tmp_path):
    cohort = radiograph_cohort(tmp_path, {"train": 40, "val": 8, "test": 8})
    chosen = tiny_config(epochs=1, batch_size=20, probe_every=None)
    run = RunFolder.open(pretrain(cohort, "simclr", tmp_path / "run", config=chosen))
    assert run.config["data"]["intensity"] is None
    assert run.config["intensity_used"] == {"unknown uint8": {"kind": "full_range"}}
    assert 'unknown uint8 `{"kind":"full_range"}`' in run.model_card.read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["U-Zeros", "zeros", "U-ZEROS"])
def test_uncertain__is_read_by_its_published_name(word):
    assert PretrainConfig.build({"uncertain": word}).uncertain == "zeros"
