"""Linear probe at 10 % of the labels: five methods against the untrained backbone.

    python -m benchmarks.linear_probe --out FOLDER

PneumoniaMNIST, one pre-training per method with a stated budget (the same samples seen for all), ten
seeds that draw label subset and probe. Prints kNN AUC of every pre-training beside the untrained
backbone's, and the table of the results page. Call it again to go on.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch

from scoutview.api.embed import embed
from scoutview.api.experiment import Arm, ExperimentConfig, experiment
from scoutview.api.transfer import TransferConfig
from scoutview.index.cohort import Cohort
from scoutview.nn.probe_solvers import knn_scores
from scoutview.recipes.demo import FULL_METHODS, SMALL_NETWORK, pretraining
from scoutview.recipes.pneumoniamnist import SIDE, pneumoniamnist
from scoutview.results.run import RunFolder, read_embeddings
from scoutview.stats.ranking import auc
from scoutview.views.policy import EvalView

SEEDS = tuple(range(10))
NEIGHBOURS = 20


def knn_auc(cohort: Path, run: Path, place: Path) -> float:
    """Test AUC of a 20-nearest-neighbour vote among the training images, on cosine similarity."""
    if not (place / "embeddings.parquet").is_file():
        embed(cohort, run, place)
    rows, features = read_embeddings(place / "embeddings.parquet")
    table = Cohort.open(cohort).table.set_index("image_id")
    targets = table["pneumonia"].reindex(rows["image_id"]).to_numpy(dtype=np.float64)
    part = rows["split"].to_numpy()
    vectors = torch.from_numpy(np.array(features))
    scores = knn_scores(
        vectors[part == "train"],
        torch.from_numpy(targets[part == "train"])[:, None],
        vectors[part == "test"],
        k=NEIGHBOURS,
    )
    return float(auc(targets[part == "test"], scores[:, 0].numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--methods", nargs="+", default=list(FULL_METHODS))
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
    page = experiment(cohort, folder, config)
    found = {}
    for method in arguments.methods:
        run = folder / "pretraining" / method
        value = knn_auc(cohort, run, folder / "knn" / method)
        summary = RunFolder.open(run).summary()
        found[method] = {
            "knn_auc": round(value, 4),
            "samples_seen": summary["samples_seen"],
            "minutes": round(summary["time_s"] / 60, 2),
            "alarms": summary["alarms"],
        }
    (folder / "knn.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    print((page.parent / "tables" / "headline.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
