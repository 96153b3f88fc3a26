"""Small real cohorts of the bundled radiographs, and a run as a training would leave it."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from scoutview.api.index import index
from scoutview.index.config import IndexConfig
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.results.run import RunFolder

TINY = BackboneConfig(
    name="resnet10t", small_stem=False, stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1)
)
"""A network that trains in a blink."""


def write_radiographs(file: Path, counts: Mapping[str, int], *, seed: int = 1) -> Path:
    """Write a random part of PneumoniaMNIST, as many images per part as `counts` says."""
    demo = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    arrays = {}
    with importlib.resources.as_file(demo) as path, np.load(path) as whole:
        for part, count in counts.items():
            pick = np.random.default_rng(seed).permutation(len(whole[f"{part}_images"]))[:count]
            for kind in ("images", "labels"):
                arrays[f"{part}_{kind}"] = whole[f"{part}_{kind}"][pick]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)
    return file


def radiograph_cohort(folder: Path, counts: Mapping[str, int]) -> Path:
    """Index such a part; its label is "pneumonia"."""
    source = write_radiographs(folder / "radiographs.npz", counts)
    config = IndexConfig(workers=1, label_names={"label": "pneumonia"})
    return index(source, folder / "cohort", config=config)


def tiny_run(folder: Path) -> RunFolder:
    """Write a run with the random weights of TINY; the cohort it names does not exist."""
    torch.manual_seed(4)
    values = {
        "backbone": TINY.model_dump(mode="json"),
        "data": {"split": "train"},
        "view": {"size": 28},
        "mean": 0.4,
        "std": 0.2,
        "method": {"name": "simclr"},
        "cohort": "nowhere",
    }
    run = RunFolder.create(folder, values, {})
    save_file(build_backbone(TINY).model.state_dict(), run.backbone)
    return run
