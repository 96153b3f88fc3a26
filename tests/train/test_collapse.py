"""Planted collapses raise their named alarm well within 200 steps; healthy runs stay silent.

All on the demo set's real radiographs, through the whole of `pretrain`, with a small backbone.
"""

import importlib.resources

import numpy as np
import pytest
import torch

import scoutview.api.pretrain as pretraining
from scoutview.api.index import index
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.methods import METHODS, config_class, method_class
from scoutview.methods.byol import BYOL
from scoutview.nn.backbones import BackboneConfig
from scoutview.results.run import RunFolder

pytestmark = pytest.mark.slow

BACKBONE = BackboneConfig(name="resnet10t", stage_widths=(8, 16, 32, 64), stage_depths=(1, 1, 1, 1))
CHEAPER = BackboneConfig(name="resnet18", stage_widths=(8, 16, 32, 64), stage_depths=(1, 1, 1, 1))
WITH_A_MAP = BackboneConfig(
    name="resnet18", small_stem=True, stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1)
)
OTHERS = {"dino": BACKBONE, "pixpro": WITH_A_MAP}
STEPS = 200
FIVE = ("simclr", "moco_v2", "byol", "barlow_twins", "swav")
"""Watched for all steps; the others for three checks of the monitor."""


class NoStopGradient(BYOL):
    """The target is the student itself, and the gradient flows into it."""

    def _target(self, view):
        return self.projector(self.backbone(view))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collapse")
    demo = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(demo) as path, np.load(path) as whole:
        pick = np.random.default_rng(0).permutation(len(whole["train_images"]))[:1000]
        arrays = {f"train_{kind}": whole[f"train_{kind}"][pick] for kind in ("images", "labels")}
    np.savez(folder / "set.npz", **arrays)
    return index(folder / "set.npz", folder / "cohort")


def watched(name, cohort, out, *, batch_size=32, backbone=CHEAPER, steps=STEPS, **settings):
    """Train; return the alarms by name with the step that raised them."""
    torch.set_num_threads(1)
    kind = config_class(name)
    values = {"hidden_dim": 256, "output_dim": 64} | settings
    config = PretrainConfig(
        samples=steps * batch_size,
        batch_size=batch_size,
        backbone=backbone,
        accelerator="cpu",
        log_every=25,
        checkpoint_every=None,
        probe_every=None,
        progress=False,
    )
    chosen = kind(**{key: v for key, v in values.items() if key in kind.model_fields})
    run = RunFolder.open(pretrain(cohort, name, out, config=config, settings=chosen))
    raised = run.summary()["alarms"]
    in_time = run.metrics()["step"].max()
    assert in_time == steps
    return raised


@pytest.mark.parametrize(
    "name", [name for name in sorted(METHODS) if method_class(name).self_supervised]
)
def test_monitor__healthy_runs_stay_silent(name, cohort, tmp_path):
    backbone = OTHERS.get(name, CHEAPER)
    steps = STEPS if name in FIVE else 75
    assert watched(name, cohort, tmp_path / "run", backbone=backbone, steps=steps) == []


def test_monitor__no_stop_gradient_is_called_collapsed(cohort, tmp_path, monkeypatch):
    def planted(name, backbone, config, **_):
        return NoStopGradient(backbone, config)

    monkeypatch.setattr(pretraining, "build", planted)
    raised = watched("byol", cohort, tmp_path / "run", backbone=BACKBONE, steps=125)
    assert raised == ["collapsed_features"]


@pytest.mark.parametrize("name", ["sela_v2", "swav"])
def test_monitor__uniform_predictions_are_called_pinned(name, cohort, tmp_path):
    raised = watched(name, cohort, tmp_path / "run", steps=125, temperature=1000.0)
    assert raised == ["loss_pinned"]


def test_monitor__a_tiny_batch_is_named(cohort, tmp_path):
    raised = watched("simclr", cohort, tmp_path / "run", batch_size=4, steps=25)
    assert raised == ["batch_too_small"]


def test_monitor__codes_without_centring_are_named(cohort, tmp_path):
    sharp = {"teacher_temperature_start": 0.02, "teacher_temperature": 0.02}
    planted = {"centre_momentum": 1.0, "momentum": 0.9, "teacher_warmup_epochs": 0} | sharp
    assert "few_codes" in watched("dino", cohort, tmp_path / "run", steps=125, **planted)
