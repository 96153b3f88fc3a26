"""A study as `transfer` would write it, with simulated scores of known quality."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from scoutview.results.run import RunFolder, write_embeddings
from scoutview.results.sources import CohortView
from scoutview.results.study import Study

DEMO = Path(__file__).parents[2] / "src/scoutview/demo_data/pneumoniamnist.npz"

ENVIRONMENT = {
    "python": "3.11.9",
    "platform": "Linux x86_64",
    "packages": {"scoutview": "0.1.0", "torch": "2.10.0", "numpy": "2.3.5"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "cpu": "Example CPU @ 2.5 GHz",
    "cores": 2,
    "memory_gib": 16.0,
    "threads": {"torch": "2"},
    "gpus": [],
    "time": "2026-11-21T08:00:00+00:00",
}

ARMS = {
    # name: kind, method, quality (distance of the classes) at 1 %, 10 % and 100 % of the labels
    "SimCLR": ("run", "simclr", (1.35, 1.95, 2.20)),
    "Barlow Twins": ("run", "barlow_twins", (1.00, 1.42, 2.05)),
    "random": ("random", "", (1.00, 1.45, 1.70)),
    "supervised": ("supervised", "", (0.60, 1.60, 2.45)),
    "raw pixels": ("raw_pixels", "", (0.85, 1.35, 1.75)),
}
FRACTIONS = (0.01, 0.1, 1.0)


def simulated(targets, quality, rng, shared, *, labels=("pneumonia",), split="test"):
    """Scores whose AUC is Phi(quality / sqrt 2), with difficulty shared between models."""
    frames = []
    for label in labels:
        noise = 0.75 * shared + math.sqrt(1 - 0.75**2) * rng.standard_normal(len(targets))
        logits = quality * (targets - 0.5) + noise
        frames.append(
            pd.DataFrame(
                {
                    "image_id": [f"{split}{i:012x}" for i in range(len(targets))],
                    "patient_id": [f"{split}{i // 2:012x}" for i in range(len(targets))],
                    "split": split,
                    "fold": -1,
                    "label": label,
                    "target": targets.astype(float),
                    "score": 1 / (1 + np.exp(-logits)),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def add_run(study, arm, fraction, seed, table, method="linear_probe", epoch_choice="last"):
    _, folder = study.add_run(initialisation=arm, method=method, fraction=fraction, seed=seed)
    run = RunFolder.create(
        folder, {"task": "classification", "seed": seed, "cohort": "/home/someone/c"}, ENVIRONMENT
    )
    run.write_predictions(table)
    run.finish({"epoch_choice": epoch_choice, "time_s": 12.5})
    return run


def make_study(folder, *, arms=ARMS, fractions=FRACTIONS, seeds=5, images=624, embedded=0):
    """Write a study with pre-training runs and, if asked, embeddings of real radiographs.

    Args:
        folder: Where it is made.
        arms: As `ARMS`.
        fractions: Label fractions.
        seeds: Runs of every arm and fraction.
        images: Test images with simulated scores.
        embedded: Real test images with embeddings, 0 for none.
    """
    study = Study.create(
        folder / "study",
        task="classification",
        cohort=folder / "cohort",
        title="Pneumonia in paediatric chest radiographs",
        details={
            "dropped_duplicates": [
                {
                    "split": "train",
                    "of_split": "val",
                    "kind": "exact",
                    "image_ids": [f"{977 * i:016x}" for i in range(1, 9)],
                }
            ]
        },
    )
    rng = np.random.default_rng(7)
    test, val = (rng.random(images) < 0.6).astype(int), (rng.random(images) < 0.7).astype(int)
    shared = {"test": rng.standard_normal(images), "val": rng.standard_normal(images)}
    for k, (arm, (kind, method, quality)) in enumerate(arms.items()):
        pretraining = None
        if kind == "run":
            pretraining = _pretraining(folder / f"pretrain-{method}", method, k).path
        study.add_initialisation(arm, kind, method=method, run=pretraining)
        for j, fraction in enumerate(fractions):
            for seed in range(seeds):
                d = quality[j] + rng.normal(0, 0.15 / (1 + 2 * j))
                table = pd.concat(
                    [
                        simulated(test, d, rng, shared["test"]),
                        simulated(val, d, rng, shared["val"], split="val"),
                    ],
                    ignore_index=True,
                )
                add_run(study, arm, fraction, seed, table)
    if embedded:
        _embeddings(study, embedded)
    return study


def _pretraining(path, method, k):
    run = RunFolder.create(
        path,
        {"method": method, "seed": 0, "batch_size": 256, "temperature": 0.1},
        ENVIRONMENT,
    )
    rng = np.random.default_rng(k)
    for epoch in range(30):
        done = (epoch + 1) / 30
        run.append_metrics(
            {
                "step": 18 * (epoch + 1) - 1,
                "epoch": epoch + 1.0,
                "samples_seen": 4608 * (epoch + 1),
                "time_s": 4.1 * (epoch + 1),
                "loss": (5.2 - 1.5 * k) * math.exp(-2 * done) + 1.5 + rng.normal(0, 0.02),
                "knn_auc": 0.93 - 0.05 * k - 0.2 * math.exp(-(9 - 4 * k) * done),
                "effective_rank": 20 + 60 * done + rng.normal(0, 1.5) - 8 * k,
            }
        )
    run.finish({"samples_seen": 4608 * 30, "time_s": 123.0})
    return run


def radiographs():
    """The demo's images and labels: ids, patients, splits, labels, pixels in [0, 1]."""
    with np.load(DEMO) as arrays:
        parts = []
        pixels = []
        for split in ("train", "val", "test"):
            labels = arrays[f"{split}_labels"].ravel()
            parts.append(
                pd.DataFrame(
                    {
                        "image_id": [f"{split}{i:012x}" for i in range(len(labels))],
                        "split": split,
                        "pneumonia": labels.astype(float),
                    }
                )
            )
            pixels.append(arrays[f"{split}_images"])
    table = pd.concat(parts, ignore_index=True)
    return table.assign(patient_id=table["image_id"]), np.concatenate(pixels) / 255.0


def cohort_view():
    """What the page sees of the demo's cohort."""
    table, pixels = radiographs()
    row_of = {name: i for i, name in enumerate(table["image_id"])}
    table = table.assign(
        kind="image",
        modality="CR",
        body_part="chest",
        projection="AP",
        height=28,
        width=28,
        bits_stored=8,
        spacing_y=math.nan,
    )
    return CohortView(
        table=table,
        labels=[{"name": "pneumonia", "kind": "binary", "classes": []}],
        patient_ids_known=False,
        images=lambda ids: [pixels[row_of[name]].astype(np.float32) for name in ids],
        problems={},
    )


def _embeddings(study, count):
    table, pixels = radiographs()
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    keep = np.concatenate(
        [
            np.flatnonzero(table["split"] == split)[:n]
            for split, n in (("train", 2 * count), ("test", count))
        ]
    )
    rng = np.random.default_rng(0)
    rows = table.iloc[keep][["image_id", "patient_id", "split"]]
    for arm in ("SimCLR", "random"):
        mix = rng.standard_normal((flat.shape[1], 64)).astype(np.float32)
        features = np.tanh((flat[keep] - flat.mean(axis=0)) @ mix / (10 if arm == "SimCLR" else 2))
        write_embeddings(study.embeddings_folder(arm) / "embeddings.parquet", rows, features)
