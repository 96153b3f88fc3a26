"""Supervised ResNet-18 on PneumoniaMNIST, MedMNIST's protocol, beside raw pixels.

    python benchmarks/supervised_resnet18.py --out FOLDER --seeds 0

One seed takes about an hour on two quiet cores. Call it again with further seeds: what has finished
is kept, what was killed goes on. Each call rewrites the tables and the page of FOLDER/results.
"""

import argparse
import logging
import shutil
from pathlib import Path

from scoutview.api.compare import compare
from scoutview.api.transfer import transfer
from scoutview.recipes.medmnist_resnet18 import (
    medmnist_logistic_regression,
    medmnist_random_forest,
    medmnist_resnet18,
)
from scoutview.recipes.pneumoniamnist import pneumoniamnist


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = arguments.out
    cohort = pneumoniamnist(folder / "cohort")
    starts = (
        ("random", medmnist_resnet18(seeds=tuple(arguments.seeds)), "resnet18"),
        ("raw_pixels", medmnist_logistic_regression(), "logistic_regression"),
        ("raw_pixels", medmnist_random_forest(), "random_forest"),
    )
    studies = [
        transfer(cohort, "classification", start, folder / name, config, resume=True)
        for start, config, name in starts
    ]
    shutil.rmtree(folder / "results", ignore_errors=True)
    compare(studies, folder / "results", title="Supervised ResNet-18 on PneumoniaMNIST")


if __name__ == "__main__":
    main()
