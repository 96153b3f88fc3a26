"""Evaluation on fixed features: embedding, nearest neighbours, bootstrap intervals.

1. `embed`: our extraction (store, loader, view, network, copy) beside a bare loop of the same
   network over batches that are in memory already.
2. `knn`: our weighted vote beside the bare matrix product that it needs.
3. `bootstrap`: AUC replicates by patient from one sort beside a loop that sorts every replicate
   again, as scikit-learn does; and the time of 1,000 replicates x 14 labels x 20,000 rows.

Run: OMP_NUM_THREADS=1 python benchmarks/embed_eval.py --out embed_eval.json
"""

import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks.pairing import Report, finish, paired, parser
from sklearn.metrics import roc_auc_score

from scoutview.nn.probe_solvers import knn_votes
from scoutview.stats.intervals import bootstrap_auc, patient_weights
from scoutview.stats.ranking import Ranking

ROWS, LABELS, PATIENTS, REPLICATES = 20_000, 14, 7_000, 1_000
LEAST_EMBED, LEAST_KNN, LEAST_BOOTSTRAP, MOST_SECONDS = 0.97, 0.7, 10.0, 5.0
"""Bars: share of the bare loop, share of the matrix product, times the sorting loop, seconds."""


def predictions(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((rows, LABELS)) < 0.15).astype(float)
    return targets, rng.normal(size=targets.shape) + targets, rng.integers(0, PATIENTS, rows)


def bootstrap_report(rounds: int, quick: bool) -> Report:
    targets, scores, patients = predictions(ROWS)
    ranking = Ranking.of(targets[:, 0], scores[:, 0])
    weights = list(patient_weights(patients, 60, seed=0))

    def ours() -> float:
        for weight in weights:
            ranking.auc(weight)
        return len(weights)

    def sorting() -> float:
        for weight in weights[:10]:
            roc_auc_score(targets[:, 0], scores[:, 0], sample_weight=weight)
        return 10

    for weight in weights[:3]:
        expected = roc_auc_score(targets[:, 0], scores[:, 0], sample_weight=weight)
        assert math.isclose(ranking.auc(weight), expected, abs_tol=1e-12)
    replicates = REPLICATES // 10 if quick else REPLICATES
    start = time.process_time()
    bootstrap_auc(targets, scores, patients, replicates=replicates)
    seconds = time.process_time() - start
    return paired(
        "bootstrap",
        f"AUC replicates of one label, {ROWS} rows, patients drawn",
        {"ours": ours, "scikit-learn per replicate": sorting},
        rounds=rounds,
        targets={"scikit-learn per replicate": LEAST_BOOTSTRAP},
        extra={
            f"{replicates} replicates x {LABELS} labels, CPU s": round(seconds, 2),
            "bar, s": MOST_SECONDS,
        },
    )


def knn_report(rounds: int, quick: bool) -> Report:
    size = 10_000 if quick else 50_000
    g = torch.Generator().manual_seed(0)
    train = torch.nn.functional.normalize(torch.randn(size, 128, generator=g), dim=1)
    test = torch.nn.functional.normalize(torch.randn(2_000, 128, generator=g), dim=1)
    votes = torch.eye(10)[torch.randint(0, 10, (size,), generator=g)]

    def ours() -> float:
        knn_votes(train, votes, test, k=20)
        return len(test)

    def product() -> float:
        for part in test.split(1024):
            part @ train.T
        return len(test)

    return paired(
        "knn",
        f"queries against {size} features of width 128, k = 20",
        {"ours": ours, "bare matrix product": product},
        rounds=rounds,
        targets={"bare matrix product": LEAST_KNN},
    )


if __name__ == "__main__":
    o = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    finish(bootstrap_report(o.rounds, o.quick))
    finish(knn_report(o.rounds, o.quick))
