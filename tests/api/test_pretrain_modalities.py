"""Pre-training on several modalities and beside labels: what is checked, and that it runs."""

import logging
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.cohorts import TINY, radiograph_cohort
from tests.index.dicoms import dataset
from tests.processes import run_ranks
from tests.store.conftest import texture

import scoutview.api.pretrain as module
import scoutview.api.pretrain_plan as planning
from scoutview.api.index import index
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.store import store
from scoutview.base.errors import ConfigError
from scoutview.index.config import IndexConfig
from scoutview.methods.hybrid import HybridConfig
from scoutview.methods.simclr import SimCLRConfig
from scoutview.methods.swav import SwAVConfig
from scoutview.nn.backbones import build_backbone
from scoutview.results.run import RunFolder
from scoutview.tasks.targets import Targets
from scoutview.train.checkpoint import latest_checkpoint
from scoutview.views.policy import MultiCrop

PARTS = {"train": 64, "val": 24, "test": 8}
SMALL_SIMCLR = SimCLRConfig(hidden_dim=16, output_dim=8)


def config(**changes) -> PretrainConfig:
    values = {
        "samples": 32,
        "batch_size": 16,
        "backbone": TINY,
        "accelerator": "cpu",
        "log_every": 1,
        "probe_every": None,
        "progress": False,
    }
    return PretrainConfig(**{**values, **changes})


def per_modality(**changes) -> SwAVConfig:
    views = MultiCrop(counts=(2, 1), sizes=(32, 16))
    values = {"hidden_dim": 16, "output_dim": 8, "prototypes": 4, "queue_length": 0}
    return SwAVConfig(views=views, per_modality=True, **{**values, **changes})


def write_images(folder, counts):
    """One-image series of several modalities, one patient each."""
    folder.mkdir(parents=True)
    number = 0
    for modality, count in counts.items():
        for _ in range(count):
            number += 1
            ds = dataset(
                Modality=modality,
                PatientID=f"PAT{number:08d}",
                SOPInstanceUID=f"1.2.826.0.1.7777.1.{number}",
                SeriesInstanceUID=f"1.2.826.0.1.7777.2.{number}",
                StudyInstanceUID=f"1.2.826.0.1.7777.3.{number}",
                Rows=40,
                Columns=40,
                PixelRepresentation=0,
                PixelData=texture((40, 40), number).tobytes(),
            )
            ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def cohort_of(folder, counts):
    return index(write_images(folder / "sources", counts), folder / "cohort",
                 config=IndexConfig(workers=1))  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return cohort_of(tmp_path_factory.mktemp("mixed"), {"CT": 30, "MR": 20, "US": 20})


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    return radiograph_cohort(tmp_path_factory.mktemp("chests"), PARTS)


# --- per modality ----------------------------------------------------------------------------


def test_per_modality__trains_on_equal_parts_and_numbers_what_is_there(mixed, tmp_path, caplog):
    """CT is left out, so that the numbers of the store are not those of the training set."""
    chosen = config(data={"where": "modality != 'CT'"}, hybrid=None)
    with caplog.at_level(logging.WARNING, logger="scoutview"):
        path = pretrain(mixed, "swav", tmp_path / "run", config=chosen, settings=per_modality())
    run = RunFolder.open(path)
    assert run.config["balance_modalities"] is True
    assert "balance_modalities is switched on" in caplog.text
    tensors = latest_checkpoint(run.checkpoints).tensors
    assert tensors["model.prototypes"].shape == (2 * 4, 8)
    assert run.metrics()["loss"].notna().all()


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"batch_size": 16}, {}, "multiple of 3 .*CT, MR, US.*use 15 or 18"),
        (
            {"batch_size": 28, "accumulate": 4},
            {},
            "multiple of 12 .*each of 4 pieces.*use 24 or 36",
        ),
        ({"batch_size": 12, "balance_modalities": False}, {}, "set it to true"),
        ({"batch_size": 12}, {"prototypes": 21}, "prototypes must be at most .*MR has"),
        ({"batch_size": 66}, {}, "batch_size must be at most .*MR has"),
    ],
)
def test_per_modality__refuses_before_anything_is_written(
    mixed, tmp_path, changes, settings, message
):
    with pytest.raises(ConfigError, match=message):
        pretrain(
            mixed, "swav", tmp_path / "run", config=config(data={"split": None}, **changes),
            settings=per_modality(**settings),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_one_image_of_a_modality__is_refused(tmp_path):
    cohort = cohort_of(tmp_path, {"CT": 12, "US": 1})
    for name, settings, chosen in (
        ("swav", per_modality(), config(batch_size=4)),
        ("simclr", SMALL_SIMCLR, config(batch_size=4, balance_modalities=True)),
    ):
        with pytest.raises(ConfigError, match=r"at least 2 training images.*US has 1"):
            pretrain(cohort, name, tmp_path / "run", config=chosen, settings=settings)
        assert not (tmp_path / "run").exists()


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
    chosen = config(
        devices=devices, precision="64-true", batch_size=12, samples=36,
        data={"where": "modality != 'CT'"},
    )  # fmt: skip
    settings = per_modality(queue_length=6, queue_from_epoch=0, frozen_epochs=0.0)
    return pretrain(cohort, "swav", folder, config=chosen, settings=settings)


@pytest.mark.ddp
def test_per_modality__two_processes_equal_one(mixed, tmp_path):
    store(mixed)
    run_ranks(as_rank, 2, mixed, tmp_path / "two", 2)
    as_rank(mixed, tmp_path / "one", 1)
    one, two = (RunFolder.open(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_allclose(one.metrics()["loss"], two.metrics()["loss"], rtol=3e-7)
    left, right = (latest_checkpoint(run.checkpoints).tensors for run in (one, two))
    for name in ("prototypes", "queues.0.rows", "queues.3.rows"):
        torch.testing.assert_close(
            right[f"model.{name}"], left[f"model.{name}"], rtol=1e-6, atol=1e-8, msg=name
        )
    assert left["model.queues.3.rows"].abs().sum() > 0


# --- hybrid ----------------------------------------------------------------------------------


def test_hybrid__writes_a_run_whose_backbone_is_the_methods(chests, tmp_path):
    path = pretrain(
        chests, "simclr", tmp_path / "run", settings=SMALL_SIMCLR,
        config=config(hybrid=HybridConfig(beta=0.5, level="layer3"), probe_every=1),
    )  # fmt: skip
    run = RunFolder.open(path)
    assert run.config["hybrid"] == {**HybridConfig(beta=0.5, level="layer3").model_dump()}
    assert (
        "- Labels: pneumonia, beside the images (alpha 1, beta 0.5)." in run.model_card.read_text()
    )
    assert any("labels of 64 of 64 images" in note for note in run.summary()["notes"])
    metrics = run.metrics()
    parts = metrics["self_supervised_loss"] + 0.5 * metrics["label_loss"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-5)
    assert metrics["knn_auc"].notna().any()
    saved = load_file(run.backbone)
    assert saved.keys() == build_backbone(TINY).model.state_dict().keys()
    tensors = latest_checkpoint(run.checkpoints).tensors
    assert all(
        torch.equal(v, tensors[f"model.method.backbone.model.{k}"]) for k, v in saved.items()
    )


def test_hybrid__stopped_and_resumed_is_bit_equal(chests, tmp_path, monkeypatch):
    chosen = config(hybrid=HybridConfig(), checkpoint_every=1, samples=48)
    whole = pretrain(chests, "moco_v2", tmp_path / "whole", config=chosen)
    original = module.fit

    def failing(objective, *arguments, **named):
        forward = objective.forward

        def broken(batch, progress):
            if progress.step == 2:
                raise RuntimeError("planted")
            return forward(batch, progress)

        objective.forward = broken
        return original(objective, *arguments, **named)

    monkeypatch.setattr(module, "fit", failing)
    with pytest.raises(RuntimeError, match="planted"):
        pretrain(chests, "moco_v2", tmp_path / "stopped", config=chosen)
    monkeypatch.setattr(module, "fit", original)
    resumed = pretrain(resume=tmp_path / "stopped")
    one, other = (latest_checkpoint(RunFolder.open(p).checkpoints) for p in (whole, resumed))
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[k], other.tensors[k]) for k in one.tensors)


def missing(cohort, chosen) -> Targets:
    return Targets(("pneumonia",), np.full((len(cohort.table), 1), np.nan), exclusive=False)


@pytest.mark.parametrize("name", ["simclr", "supervised"])
def test_labels__all_missing_is_refused_before_anything_is_written(
    chests, tmp_path, monkeypatch, name
):
    chosen = config(hybrid=HybridConfig() if name == "simclr" else None)
    monkeypatch.setattr(planning, "_targets", missing)
    with pytest.raises(ConfigError, match=r"all labels \(pneumonia\) are missing in the 64 train"):
        pretrain(chests, name, tmp_path / "run", config=chosen)
    monkeypatch.setattr(planning, "_targets", lambda cohort, chosen: None)
    with pytest.raises(ConfigError, match="the cohort has none"):
        pretrain(chests, name, tmp_path / "run", config=chosen)
    assert not (tmp_path / "run").exists()


def test_labels__of_some_images_are_counted(chests, tmp_path, monkeypatch):
    def few(cohort, chosen):
        values = missing(cohort, chosen).values
        train = np.flatnonzero(cohort.table["split"] == "train")
        values[train[:10]] = 1.0
        return Targets(("pneumonia",), values, exclusive=False)

    monkeypatch.setattr(planning, "_targets", few)
    path = pretrain(
        chests, "simclr", tmp_path / "run", config=config(hybrid=HybridConfig()),
        settings=SMALL_SIMCLR,
    )  # fmt: skip
    run = RunFolder.open(path)
    assert any("labels of 10 of 64 images" in note for note in run.summary()["notes"])
    assert 0 < run.metrics()["labelled"].mean() < 0.5


def test_hybrid__refuses_a_level_of_a_compiled_or_another_network(chests, tmp_path):
    for chosen, message in (
        (config(hybrid=HybridConfig(level="layer3"), compile=True), "compiled"),
        (config(hybrid=HybridConfig(level="layer9")), "Unknown level of the network 'layer9'"),
    ):
        with pytest.raises(ConfigError, match=message):
            pretrain(chests, "simclr", tmp_path / "run", config=chosen)
        assert not (tmp_path / "run").exists()
