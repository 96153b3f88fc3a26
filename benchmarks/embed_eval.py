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
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from benchmarks.pairing import Report, finish, paired, parser
from sklearn.metrics import roc_auc_score

from scoutview.api.index import index
from scoutview.api.store import stored
from scoutview.data.samples import DataConfig
from scoutview.index.cohort import Cohort
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.nn.probe_solvers import knn_votes
from scoutview.stats.intervals import bootstrap_auc, patient_weights
from scoutview.stats.ranking import Ranking
from scoutview.tasks.evaluation import Evaluation
from scoutview.views.policy import EvalView

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


def embed_report(rounds: int, quick: bool) -> Report:
    """Our extraction from the store beside the same network over batches in memory."""
    count, side = (64, 128) if quick else (192, 224)
    config = BackboneConfig(name="resnet18")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 255, (count, side, side), dtype=np.uint8)
        np.savez(folder / "set.npz", train_images=images, train_labels=np.zeros((count, 1), int))
        cohort = Cohort.open(index(folder / "set.npz", folder / "cohort"))
        torch.manual_seed(0)
        backbone = build_backbone(config).eval()
        evaluation = Evaluation(
            stored(cohort), DataConfig(), EvalView(size=side), 0.5, 0.5, batch_size=32, threads=1
        )
        rows = evaluation.store.row_of(cohort.table["image_id"])
        cpu = torch.device("cpu")
        backbone.to(memory_format=torch.channels_last)
        prepare = evaluation.prepare(cpu, 1, channels_last=True)
        ready = torch.from_numpy(images[:, None].astype(np.float32) / 127.5 - 1)
        ready = ready.contiguous(memory_format=torch.channels_last)

        def ours() -> float:
            evaluation.run(lambda batch: backbone(batch.views[0]), backbone, rows, prepare)
            return count

        @torch.inference_mode()
        def bare() -> float:
            for part in ready.split(32):
                backbone(part)
            return count

        return paired(
            "embed",
            f"images of {side} px through ResNet-18, float32, one core",
            {"ours": ours, "bare loop": bare},
            rounds=rounds,
            warm_up=1,
            targets={"bare loop": LEAST_EMBED},
        )


def main() -> None:
    """Run the three parts and write them into one file."""
    options = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    reports = [
        finish(make(options.rounds, options.quick))
        for make in (embed_report, knn_report, bootstrap_report)
    ]
    if options.out:
        content = [asdict(report) | {"trustworthy": report.trustworthy} for report in reports]
        Path(options.out).write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
