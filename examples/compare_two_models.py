"""Compare the predictions of two models on the same patients; no network is trained.

Run: python examples/compare_two_models.py FIRST.parquet SECOND.parquet
Each table has the columns of a run's predictions.parquet, one label. Without tables, two simple
models of the bundled radiographs are compared: logistic regression on pixels, and mean brightness.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scoutview.stats.comparison import paired_bootstrap
from scoutview.stats.delong import auc_interval, paired_delong
from scoutview.stats.ranking import Ranking


def bundled(images: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict the test part from the first training images, by two simple models."""
    with np.load(str(files("scoutview") / "demo_data" / "pneumoniamnist.npz")) as data:
        pixels = {part: data[f"{part}_images"].reshape(-1, 784) / 255 for part in ("train", "test")}
        labels = {part: data[f"{part}_labels"].ravel() for part in ("train", "test")}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    model.fit(pixels["train"][:images], labels["train"][:images])
    names = [str(number) for number in range(len(labels["test"]))]
    table = pd.DataFrame({"image_id": names, "patient_id": names, "target": labels["test"]})
    first = table.assign(score=model.predict_proba(pixels["test"])[:, 1])
    return first, table.assign(score=pixels["test"].mean(axis=1))


def main() -> None:
    """Print both AUCs with intervals, their difference, and two tests of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path, nargs="*", help="two predictions.parquet")
    parser.add_argument("--images", type=int, default=1000, help="training images, if bundled")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap draws")
    given = parser.parse_args()
    if len(given.tables) not in (0, 2):
        parser.error("give two tables, or none")
    tables = [pd.read_parquet(path) for path in given.tables] or bundled(given.images)
    a, b = (t.query("split == 'test'") if "split" in t else t for t in tables)
    both = a.merge(b, on=["image_id", "patient_id", "target"], suffixes=("_a", "_b"))

    y, patients = both["target"], both["patient_id"]
    for name in "ab":
        found = auc_interval(y, both[f"score_{name}"])
        print(f"model {name}: AUC {found.value:.3f} ({found.low:.3f} to {found.high:.3f})")
    first, second = (Ranking.of(y, both[f"score_{name}"]).auc for name in "ab")
    bootstrap = paired_bootstrap(first, second, patients, replicates=given.replicates)
    for found in (paired_delong(y, both["score_a"], both["score_b"]), bootstrap):
        interval = f"{found.low:+.3f} to {found.high:+.3f}"
        print(f"a - b: {found.difference:+.3f} ({interval}), p = {found.p:.2g}, {found.test}")


if __name__ == "__main__":
    main()
