"""Every method at one budget on small real sets: what each is worth beside no training at all.

Data: PneumoniaMNIST, which comes with the package, or any cohort of small images with one label.
Budget: 12,800 images seen in 200 steps of 64, three seeds, a network of 316 thousand weights.
Hardware and time: two CPU cores, about half a minute a training of two views, twice that of many;
all methods with three seeds on two sets about two hours. Finished runs are kept.
"""

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.store import store
from scoutview.api.transfer import TransferConfig, transfer
from scoutview.base.errors import ScoutviewError
from scoutview.base.files import write_text
from scoutview.base.processes import process_pool
from scoutview.data.samples import DataConfig
from scoutview.index.cohort import Cohort
from scoutview.methods import METHODS, config_class
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone, build_backbone
from scoutview.nn.optim_config import AdamWConfig, CosineSchedule
from scoutview.nn.probe_solvers import knn_scores
from scoutview.recipes.demo import SMALL_NETWORK
from scoutview.results.provenance import environment
from scoutview.results.run import RunFolder
from scoutview.results.study import Study
from scoutview.stats.intervals import bootstrap_auc
from scoutview.store.build import StoreConfig
from scoutview.store.reader import Store
from scoutview.tasks.evaluation import Evaluation
from scoutview.tasks.targets import read_targets
from scoutview.views.policy import EvalView

SAMPLES: Final = 12_800
BATCH: Final = 64
FRACTIONS: Final = (0.1, 1.0)
UNTRAINED: Final = "untrained"
NEIGHBOURS: Final = 20
NARROW: Final = {"hidden_dim": 512, "output_dim": 128}
"""Heads in proportion to the network, for every method that has them and no wish of its own."""
OWN: Final[dict[str, dict[str, Any]]] = {
    "barlow_twins": {"output_dim": 512},
    "vicreg": {"output_dim": 512},
}


def compare_methods(
    cohort: str | Path,
    out: str | Path,
    *,
    side: int,
    methods: Sequence[str] = tuple(sorted(METHODS)),
    seeds: Sequence[int] = (0, 1, 2),
    samples: int = SAMPLES,
) -> list[dict[str, Any]]:
    """Train and score every method; call it again to go on.

    Each run has a process of its own, so that its peak memory is its own.

    Args:
        cohort: A cohort of images with one label and the parts train, val and test.
        out: Folder for `runs/`, `scores/` and the studies of the probes.
        side: Longest side to which stored images are shrunk, in pixels; that of the largest views.
        methods: Registry names; the untrained network always takes part.
        seeds: One training, one label subset and one untrained network each.
        samples: Images seen by each training.

    Returns:
        One line per method and seed: its commit, cost, and what its features are worth. A run that
        stopped with an error has it in `error` and no scores.
    """
    folder = Path(out)
    store(cohort, config=StoreConfig(max_side=side))  # views then have this size by themselves
    lines = []
    for seed in seeds:  # outside, so that a comparison that is stopped has whole seeds
        for method in (UNTRAINED, *methods):
            place = folder / "scores" / f"{method}-seed{seed}.json"
            if not place.is_file():
                line = _in_own_process(str(cohort), str(folder), method, seed, side, samples)
                place.parent.mkdir(parents=True, exist_ok=True)
                write_text(place, json.dumps(line, indent=2) + "\n")
            lines.append(json.loads(place.read_text(encoding="utf-8")))
    return lines


def _in_own_process(*arguments: Any) -> dict[str, Any]:
    with process_pool(1, preload=("scoutview.api.transfer",)) as pool:
        return pool.submit(_measured, *arguments).result()


def _measured(
    cohort: str, folder: str, method: str, seed: int, side: int, samples: int
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "commit": environment()["commit"],
        "alarms": "",
        "error": "",
    }
    start: str | Path = "random"
    try:
        if method != UNTRAINED:
            start = Path(folder) / "runs" / f"{method}-seed{seed}"
            line |= _trained(cohort, method, seed, samples, start)
        return line | _scored(cohort, Path(folder), method, seed, side, start)
    except ScoutviewError as error:  # a method that cannot work here is a result, too
        return line | {"error": str(error)}


def _trained(cohort: str, method: str, seed: int, samples: int, place: Path) -> dict[str, Any]:
    if not place.exists():
        config = PretrainConfig(
            samples=samples,
            batch_size=BATCH,
            seed=seed,
            backbone=SMALL_NETWORK,
            optimizer=AdamWConfig(lr=1e-3, lr_per=None, weight_decay=1e-4),
            schedule=CosineSchedule(warmup_epochs=1),
            precision="bf16-mixed",
            probe_every=None,
        )
        pretrain(cohort, method, place, config=config, settings=settings_of(method))
    elif not RunFolder.open(place).finished:
        pretrain(resume=place)
    summary = RunFolder.open(place).summary()
    return {
        "samples_seen": summary["samples_seen"],
        "steps": summary["steps"],
        "ms_per_step": round(1000 * summary["time_s"] / summary["steps"], 1),
        "peak_mb": round(_peak_mb()),
        "alarms": " ".join(summary["alarms"]),
    }


def settings_of(method: str) -> MethodConfig:
    """Give a method's settings for the small network: the paper's, but for the width of heads."""
    kind = config_class(method)
    wishes = NARROW | OWN.get(method, {})
    return kind.build({name: value for name, value in wishes.items() if name in kind.model_fields})


def _scored(
    cohort: str, folder: Path, method: str, seed: int, side: int, start: str | Path
) -> dict[str, Any]:
    """Nearest neighbours among all training images, linear probes on some and on all labels."""
    found = _knn(Cohort.open(cohort), _backbone(start, seed), side)
    config = TransferConfig(
        fractions=FRACTIONS,
        seeds=(seed,),
        on_leak="drop",
        backbone=SMALL_NETWORK,
        backbone_seed=seed,
        view=EvalView(size=side),
    )
    study = Study.open(
        transfer(
            cohort,
            "classification",
            start,
            folder / "probes" / f"{method}-seed{seed}",
            config,
            resume=True,
        )
    )
    for entry in study.content.runs:
        table = RunFolder.open(study.path / entry.path).predictions()
        test = table[table["split"] == "test"].pivot(index="image_id", columns="label")
        found |= _areas(
            f"linear_{round(100 * entry.fraction)}",
            test["target"].to_numpy(),
            test["score"].to_numpy(),
        )
    return found


def _backbone(start: str | Path, seed: int) -> Backbone:
    if start == "random":
        torch.manual_seed(seed)
        return build_backbone(SMALL_NETWORK)
    weights = str(RunFolder.open(start).backbone)
    return build_backbone(SMALL_NETWORK.model_copy(update={"weights": weights}))


def _knn(cohort: Cohort, backbone: Backbone, side: int) -> dict[str, float]:
    """Test AUC of a vote of the nearest training images by cosine similarity."""
    store = Store.open(cohort.folder)
    evaluation = Evaluation(store, DataConfig(), EvalView(size=side), 0.5, 0.5)
    prepare = evaluation.prepare(torch.device("cpu"), backbone.in_channels)
    rows = store.row_of(cohort.table["image_id"])
    found = evaluation.run(lambda batch: backbone(batch.views[0]), backbone, rows, prepare)
    targets = read_targets(cohort.table, cohort.labels).values
    part = cohort.table["split"].to_numpy()
    train, test = part == "train", part == "test"
    features, known = torch.tensor(found), torch.tensor(targets[train])
    votes = knn_scores(features[train], known, features[test], k=NEIGHBOURS)
    return _areas("knn", targets[test], votes.numpy())


def _areas(name: str, targets: Any, scores: Any) -> dict[str, float]:
    """Macro AUC with its bootstrap interval over test images."""
    estimates = bootstrap_auc(targets, scores, np.arange(len(targets)))
    return {
        f"{name}_auc": round(float(np.mean([e.value for e in estimates])), 4),
        f"{name}_low": round(float(np.mean([e.low for e in estimates])), 4),
        f"{name}_high": round(float(np.mean([e.high for e in estimates])), 4),
    }


def _peak_mb() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
