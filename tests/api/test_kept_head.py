"""Fine-tuning from the layer of the head that a pre-training run kept."""

import importlib.resources
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scoutview.api.index import index
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.transfer import TransferConfig, transfer
from scoutview.api.transfer_runs import FineTune, _objective
from scoutview.api.transfer_starts import read_start
from scoutview.base.errors import ConfigError
from scoutview.contract import LabelSpec
from scoutview.methods import config_class
from scoutview.nn.backbones import BackboneConfig
from scoutview.results.run import RunFolder
from scoutview.results.study import Study
from scoutview.tasks.classification import ClassificationConfig
from scoutview.train.config import FitConfig
from scoutview.views.policy import TwoCrops

TINY = BackboneConfig(name="resnet10t", stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1))
TARGETS = SimpleNamespace(spec=LabelSpec(kind="binary", names=("label",)))
KEPT = FineTune(
    from_kept_head=True,
    fit=FitConfig(epochs=1, batch_size=16, accelerator="cpu", progress=False),
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    demo = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(demo) as path, np.load(path) as whole:
        arrays = {
            f"{part}_{kind}": whole[f"{part}_{kind}"][100:132]
            for part in ("train", "val", "test")
            for kind in ("images", "labels")
        }
    np.savez(folder / "set.npz", **arrays)
    return index(folder / "set.npz", folder / "cohort")


def pretrained(cohort, name, folder):
    kind = config_class(name)
    return pretrain(
        cohort,
        name,
        folder / name,
        config=PretrainConfig(
            samples=32,
            batch_size=16,
            backbone=TINY,
            accelerator="cpu",
            checkpoint_every=None,
            probe_every=None,
            progress=False,
        ),
        settings=kind(hidden_dim=24, output_dim=8, views=TwoCrops(size=28)),
    )


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    return pretrained(cohort, "simclr_v2", tmp_path_factory.mktemp("runs"))


def test_classifier__starts_from_the_kept_layer(run):
    start = read_start(run, TransferConfig(mode=KEPT))
    head = _objective(KEPT, start, TARGETS, seed=3).head
    assert [type(part) for part in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    kept = load_file(RunFolder.open(run).kept_head)
    assert tuple(kept["0.weight"].shape) == (24, 16)
    for name, value in head[:3].state_dict().items():
        assert torch.equal(value, kept[name]), name
    assert float(kept["1.running_mean"].abs().max()) > 0  # trained, not drawn


def test_transfer__fine_tunes_from_the_kept_layer(cohort, run, tmp_path):
    config = TransferConfig(mode=KEPT, seeds=(0,))
    study = Study.open(transfer(cohort, "classification", run, tmp_path / "study", config))
    ((_, finished),) = study.runs()
    assert finished.config["transfer"]["mode"]["from_kept_head"] is True
    assert finished.predictions()["score"].between(0, 1).all()


def test_classifier__refuses_a_start_without_a_kept_layer(cohort, run, tmp_path):
    random = read_start("random", TransferConfig(mode=KEPT, backbone=TINY))
    other = read_start(pretrained(cohort, "simclr", tmp_path), TransferConfig(mode=KEPT))
    for start in (random, other):
        with pytest.raises(ConfigError, match="kept a layer of its head, as simclr_v2"):
            _objective(KEPT, start, TARGETS, seed=0)
    wide = KEPT.model_copy(update={"head": ClassificationConfig(hidden_dim=8)})
    with pytest.raises(ConfigError, match="leave one of the two out"):
        _objective(wide, read_start(run, TransferConfig(mode=KEPT)), TARGETS, seed=0)
