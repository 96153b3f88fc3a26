"""Exports are judged by what others would do: follow the model card with plain timm, run ONNX."""

import json
import os
import re

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from tests.cohorts import TINY, radiograph_cohort

from scoutview.api.export import export
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.transfer import TransferConfig, transfer
from scoutview.api.transfer_runs import FineTune
from scoutview.base.errors import RunError
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.nn.optim_config import AdamConfig
from scoutview.results.run import RunFolder
from scoutview.results.study import Study
from scoutview.tasks.probe import LinearProbe
from scoutview.train.config import FitConfig
from scoutview.views.policy import EvalView

NETWORKS = {
    "cnn": TINY,
    "cnn with a small stem": TINY.model_copy(update={"small_stem": True, "in_channels": 3}),
    "vit": BackboneConfig(name="vit_tiny_patch16_224", image_size=32),
}


def finished(folder, config, side=32):
    """A run with random weights and statistics, as a training would leave it."""
    torch.manual_seed(5)
    backbone = build_backbone(config).train()
    with torch.no_grad():
        backbone(torch.randn(8, config.in_channels, side, side))  # moves the running statistics
    values = {
        "verb": "pretrain",
        "method": {"name": "simclr", "temperature": 0.1},
        "backbone": config.model_dump(mode="json"),
        "data": {"intensity": None},
        "view": {"size": side},
        "mean": 0.5,
        "std": 0.25,
    }
    run = RunFolder.create(folder, values, {})
    save_file(backbone.model.state_dict(), run.backbone)
    run.write_model_card("# Network\n\n- Weights: `backbone.safetensors`.\n")
    run.finish({})
    return run, backbone.eval()


def by_model_card(folder):
    """Run the code block of the model card, in the exported folder, and return its model."""
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "scoutview" not in code
    names = {}
    before = os.getcwd()
    os.chdir(folder)
    try:
        exec(code, names)
    finally:
        os.chdir(before)
    return names["model"]


@pytest.mark.parametrize("name", NETWORKS)
def test_export__code_of_the_model_card_gives_equal_features(name, tmp_path):
    run, backbone = finished(tmp_path / "run", NETWORKS[name])
    folder = export(run.path, tmp_path / "out")
    model = by_model_card(folder)
    assert not model.training
    images = torch.randn(3, backbone.in_channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), backbone(images), rtol=0, atol=0)
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    assert "backbone.safetensors" not in card, "the exported file has another name"
    assert "(x - 0.5) / 0.25" in card
    assert f"Output: (B, {backbone.dim})" in card


@pytest.mark.parametrize("name", NETWORKS)
def test_export__onnx_equals_pytorch_at_another_batch_size(name, tmp_path):
    run, backbone = finished(tmp_path / "run", NETWORKS[name])
    folder = export(run.path, tmp_path / "out", onnx=True)
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for count in (1, 5):
        images = torch.randn(count, backbone.in_channels, 32, 32)
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, backbone(images).numpy(), atol=1e-4)


def test_export__description_rebuilds_the_network(tmp_path):
    run, _ = finished(tmp_path / "run", NETWORKS["cnn with a small stem"])
    found = json.loads((export(run.path, tmp_path / "out") / "model.json").read_text())
    assert found["timm_name"] == "resnet10t"
    assert found["timm_arguments"]["channels"] == [8, 8, 16, 16]
    assert (found["small_stem"], found["in_channels"], found["image_size"]) == (True, 3, 32)
    assert (found["mean"], found["std"], found["method"]) == (0.5, 0.25, "simclr")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    counts = {"train": 48, "val": 24, "test": 16}
    return radiograph_cohort(tmp_path_factory.mktemp("export"), counts)


def test_export__takes_a_real_pretraining_run(cohort, tmp_path):
    config = PretrainConfig(
        epochs=1, batch_size=24, backbone=TINY, accelerator="cpu", probe_every=None, progress=False
    )
    run = RunFolder.open(pretrain(cohort, "simclr", tmp_path / "run", config=config))
    model = by_model_card(export(run.path, tmp_path / "out"))
    values = BackboneConfig.build(run.config["backbone"] | {"weights": str(run.backbone)})
    images = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(model(images), build_backbone(values).eval()(images))


def test_export__takes_a_fine_tuned_run_and_refuses_a_probe(cohort, tmp_path):
    fit = FitConfig(
        epochs=1, batch_size=24, optimizer=AdamConfig(lr=1e-3, lr_per=None), progress=False
    )
    for mode in (FineTune(fit=fit), LinearProbe(l2=(1.0,))):
        config = TransferConfig(
            mode=mode, backbone=TINY, view=EvalView(size=28), seeds=(0,), std=0.25, on_leak="drop"
        )
        transfer(cohort, "classification", "random", tmp_path / "study", config, resume=True)
    runs = {entry.method: run for entry, run in Study.open(tmp_path / "study").runs()}
    tuned = runs["fine_tune"]
    folder = export(tuned.path, tmp_path / "out")
    model = by_model_card(folder)
    values = BackboneConfig.build(tuned.config["backbone"] | {"weights": str(tuned.backbone)})
    images = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(model(images), build_backbone(values).eval()(images))
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    assert "fine_tune for classification" in card
    assert "/ 0.25" in card
    told = json.loads((folder / "model.json").read_text())
    assert told["method"] == "fine_tune"
    assert told["intensity"] == {"unknown uint8": {"kind": "full_range"}}
    with pytest.raises(RunError, match="trained no network"):
        export(runs["linear_probe"].path, tmp_path / "probe")
    assert not (tmp_path / "probe").exists()


def test_export__refuses_an_unfinished_run_and_a_folder_with_content(tmp_path):
    bare = RunFolder.create(tmp_path / "bare", {"method": "simclr"}, {})
    with pytest.raises(RunError, match="--resume"):
        export(bare.path, tmp_path / "out")
    run, _ = finished(tmp_path / "run", TINY)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        export(run.path, tmp_path / "full")
