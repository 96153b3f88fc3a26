"""Linear probe at 10 % of the labels: five methods against the untrained backbone.

    python -m benchmarks.linear_probe --out FOLDER

PneumoniaMNIST, one pre-training per method with a stated budget (the same samples seen for all),
ten seeds that draw label subset and probe. Prints kNN AUC of every pre-training beside the
untrained backbone's, and the table of the results page. Call it again to go on.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch

from scoutview.api.experiment import Arm, ExperimentConfig, experiment
from scoutview.api.transfer import TransferConfig
from scoutview.data.samples import DataConfig
from scoutview.index.cohort import Cohort
from scoutview.nn.backbones import Backbone, build_backbone
from scoutview.nn.probe_solvers import knn_scores
from scoutview.recipes.demo import SMALL_NETWORK, pretraining
from scoutview.recipes.pneumoniamnist import SIDE, pneumoniamnist
from scoutview.results.run import RunFolder
from scoutview.stats.ranking import auc
from scoutview.store.reader import Store
from scoutview.tasks.evaluation import Evaluation
from scoutview.views.policy import EvalView

SEEDS = tuple(range(10))
NEIGHBOURS = 20
METHODS = ("simclr", "moco_v2", "byol", "barlow_twins", "swav")


def knn_auc(cohort: Cohort, backbone: Backbone) -> float:
    """Test AUC of a 20-nearest-neighbour vote among the training images, on cosine similarity."""
    store = Store.open(cohort.folder)
    rows = store.row_of(cohort.table["image_id"])
    evaluation = Evaluation(store, DataConfig(), EvalView(size=SIDE), 0.5, 0.5, 256, 1)
    prepare = evaluation.prepare(torch.device("cpu"), backbone.in_channels)
    found = evaluation.run(lambda batch: backbone(batch.views[0]), backbone, rows, prepare)
    features = torch.from_numpy(found)
    targets = cohort.table["pneumonia"].to_numpy(dtype=np.float64)
    train, test = ((cohort.table["split"] == part).to_numpy() for part in ("train", "test"))
    votes = knn_scores(
        features[train], torch.from_numpy(targets[train])[:, None], features[test], k=NEIGHBOURS
    )
    return float(auc(targets[test], votes[:, 0].numpy()))


def untrained() -> Backbone:
    """The backbone that "random" probes start from: seed 0, as in the transfer studies."""
    torch.manual_seed(0)
    return build_backbone(SMALL_NETWORK)


def pretrained(run: RunFolder) -> Backbone:
    """The backbone that a run left."""
    return build_backbone(SMALL_NETWORK.model_copy(update={"weights": str(run.backbone)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder: Path = arguments.out
    cohort = pneumoniamnist(folder / "cohort")
    arms = [
        Arm(name=method, pretraining=pretraining(method, arguments.samples))
        for method in arguments.methods
    ]
    config = ExperimentConfig(
        arms=(*arms, Arm(initialisation="random", name="random")),
        transfer=TransferConfig(
            fractions=(0.1,),
            seeds=SEEDS,
            on_leak="drop",
            backbone=SMALL_NETWORK,
            view=EvalView(size=SIDE),
        ),
        title=f"Linear probe at 10 % of the labels, {arguments.samples:,} samples seen",
    )
    page = experiment(cohort, folder, config, resume=True)
    opened = Cohort.open(cohort)
    found: dict[str, dict[str, object]] = {
        "untrained": {"knn_auc": round(knn_auc(opened, untrained()), 4)}
    }
    for method in arguments.methods:
        run = RunFolder.open(folder / "pretraining" / method)
        summary = run.summary()
        found[method] = {
            "knn_auc": round(knn_auc(opened, pretrained(run)), 4),
            "samples_seen": summary["samples_seen"],
            "minutes": round(summary["time_s"] / 60, 2),
            "alarms": summary["alarms"],
        }
    (folder / "knn.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    print((page.parent / "tables" / "headline.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
