"""The main job on real radiographs, verb by verb; its headline is computed again by hand."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from tests.cohorts import TINY, write_radiographs

from scoutview.api.compare import compare
from scoutview.api.embed import embed
from scoutview.api.index import index
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.store import store
from scoutview.api.transfer import TransferConfig, transfer
from scoutview.index.cohort import Cohort
from scoutview.index.config import IndexConfig
from scoutview.results.run import RunFolder, read_embeddings
from scoutview.results.study import Study
from scoutview.store.reader import Store
from scoutview.tasks.probe import LinearProbe, LogisticRegression
from scoutview.views.policy import EvalView

COUNTS = {"train": 200, "val": 60, "test": 100}
FRACTIONS, SEEDS = (0.1, 0.5), (0, 1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Everything that the verbs leave, in one folder."""
    folder = tmp_path_factory.mktemp("path")
    source = write_radiographs(folder / "source" / "radiographs.npz", COUNTS)
    config = IndexConfig(workers=1, label_names={"label": "pneumonia"})
    cohort = index(source, folder / "cohort", config=config)
    store(cohort, workers=1)
    run = pretrain(
        cohort,
        "simclr",
        folder / "simclr",
        config=PretrainConfig(
            samples=6 * 64,
            batch_size=64,
            backbone=TINY,
            accelerator="cpu",
            log_every=1,
            probe_every=1,
            progress=False,
        ),
    )
    shared = TransferConfig(
        fractions=FRACTIONS,
        seeds=SEEDS,
        backbone=TINY,
        view=EvalView(size=28),
        on_leak="drop",
        title="Pneumonia",
    )
    probe = {"mode": LinearProbe(l2=(0.01, 1.0))}
    pixels = {"mode": LogisticRegression(l2=(1.0,))}
    for start, mode in ((str(run), probe), ("random", probe), ("raw_pixels", pixels)):
        settings = shared.model_copy(update=mode)
        transfer(cohort, "classification", start, folder / "study", settings, resume=True)
    embed(cohort, run, folder / "embeddings")
    compare(folder / "study", folder / "results", replicates=100)
    return folder


def mean_auc(study, arm, fraction):
    """Mean over seeds of scikit-learn's AUC on the test images, from the files alone."""
    found = []
    for path in sorted((study / "runs").iterdir()):
        config = RunFolder.open(path).config
        if (config["initialisation"], config["fraction"]) != (arm, fraction):
            continue
        table = pd.read_parquet(path / "predictions.parquet")
        test = table[table["split"] == "test"]
        assert set(test["label"]) == {"pneumonia"}
        found.append(roc_auc_score(test["target"], test["score"]))
    assert len(found) == len(SEEDS)
    return float(np.mean(found))


def test_path__every_number_of_the_summary_is_scikit_learns(work):
    summary = pd.read_csv(work / "results" / "tables" / "summary.csv")
    assert len(summary) == 3 * len(FRACTIONS)
    for row in summary.itertuples():
        expected = mean_auc(work / "study", row.arm, row.fraction)
        assert row.auc == pytest.approx(expected, abs=1e-9)


def test_path__headline_says_the_mean_auc_of_the_pretrained_arm(work):
    html = (work / "results" / "results.html").read_text(encoding="utf-8")
    which = r"With 10.% of the labels \([\d,]+ images\), simclr"
    said = re.search(which + r" reaches a test AUC of (0?\.\d+)", html)
    assert said, "the headline names fraction, images, arm and AUC"
    assert float(said[1]) == pytest.approx(mean_auc(work / "study", "simclr", 0.1), abs=6e-4)


def test_path__page_shows_every_arm_and_every_section(work):
    html = (work / "results" / "results.html").read_text(encoding="utf-8")
    for arm in ("simclr", "random", "raw_pixels"):
        assert arm in html
    for section in ("label-fractions", "differences", "training", "roc", "map", "data"):
        assert f'id="{section}"' in html, section
    assert str(work) not in html


def test_path__targets_of_the_predictions_are_the_sources_labels(work):
    table = Cohort.open(work / "cohort").table.set_index("image_id")
    assert table.groupby("split").size().to_dict() == COUNTS
    with np.load(work / "source" / "radiographs.npz") as arrays:
        for part in COUNTS:
            stored = table.loc[table["split"] == part, "pneumonia"].sum()
            assert stored == arrays[f"{part}_labels"].sum()
    for path in (work / "study" / "runs").iterdir():
        found = RunFolder.open(path).predictions().set_index("image_id")
        np.testing.assert_array_equal(found["target"], table.loc[found.index, "pneumonia"])


def test_path__store_holds_the_sources_pixels(work):
    cohort = Cohort.open(work / "cohort")
    opened = Store.open(cohort.folder)
    stored = sorted(opened.read(row).tobytes() for row in range(len(opened)))
    with np.load(work / "source" / "radiographs.npz") as arrays:
        given = [image.tobytes() for part in COUNTS for image in arrays[f"{part}_images"]]
    assert stored == sorted(given)


def test_path__arms_learn_from_the_same_labels(work):
    sizes = {}
    for path in (work / "study" / "runs").iterdir():
        config = RunFolder.open(path).config
        key = (config["fraction"], config["seed"])
        sizes.setdefault(key, set()).add(config["images"]["train"])
    assert all(len(found) == 1 for found in sizes.values())
    assert max(sizes[0.1, 0]) < max(sizes[0.5, 0])


def test_path__six_steps_are_recorded_and_embeddings_cover_all_images(work):
    run = RunFolder.open(work / "simclr")
    assert run.metrics()["step"].max() == 6
    assert run.summary()["samples_seen"] == 6 * 64
    study = Study.open(work / "study")
    for place in (study.embeddings_folder("simclr"), work / "embeddings"):
        rows, features = read_embeddings(place / "embeddings.parquet")
        assert len(rows) == sum(COUNTS.values())
        assert np.isfinite(features).all()
