"""`compare` on a real cohort with a store, and on studies that it must refuse."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tests.results.synthetic import DEMO, add_run, make_study

from scoutview.api.compare import _readable, compare
from scoutview.base.errors import RunError
from scoutview.index.build import build_cohort
from scoutview.index.config import IndexConfig
from scoutview.results.run import write_embeddings
from scoutview.results.study import Study
from scoutview.store.build import build_store


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Real radiographs, indexed and stored; scores are simulated."""
    folder = tmp_path_factory.mktemp("compare")
    with np.load(DEMO) as arrays:
        part = {name: arrays[name][:40] for name in arrays}
    (folder / "source").mkdir()
    np.savez(folder / "source" / "radiographs.npz", **part)
    cohort = build_cohort([folder / "source"], folder / "cohort", IndexConfig(workers=1))
    build_store(cohort, workers=1)
    study = Study.create(
        folder / "study", task="classification", cohort=cohort.folder, title="Radiographs"
    )
    rng = np.random.default_rng(0)
    (label,) = [label.name for label in cohort.labels]
    table = cohort.table[cohort.table["split"] == "test"]
    rows = cohort.table[["image_id", "patient_id", "split"]]
    for arm, kind, quality in (("net", "file", 2.0), ("random", "random", 0.5)):
        study.add_initialisation(arm, kind)
        features = rng.standard_normal((len(rows), 8)).astype(np.float32)
        write_embeddings(study.embeddings_folder(arm) / "embeddings.parquet", rows, features)
        for fraction in (0.1, 1.0):
            for seed in range(3):
                target = _targets(table, label)
                logits = quality * (target - 0.5) + rng.standard_normal(len(table))
                add_run(study, arm, fraction, seed, _predictions(table, target, logits))
    return study


def _targets(table, label):
    values = table[label].to_numpy()
    return (values == values.max()).astype(float) if values.dtype == object else values


def _predictions(table, target, logits):
    return pd.DataFrame(
        {
            "image_id": table["image_id"].to_numpy(),
            "patient_id": table["patient_id"].to_numpy(),
            "split": "test",
            "fold": -1,
            "label": "pneumonia",
            "target": target,
            "score": 1 / (1 + np.exp(-logits)),
        }
    )


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    return compare(study.path, tmp_path_factory.mktemp("out") / "results", replicates=50)


def test_compare__writes_tables_figures_and_one_page(page):
    assert page.name == "results.html"
    tables = {path.name for path in (page.parent / "tables").iterdir()}
    assert {"headline.md", "headline.tex", "summary.csv", "comparisons.csv", "runs.csv"} <= tables
    assert {"scores.csv", "run_scores.csv", "scores.md"} <= tables
    drawn = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"label_fractions.svg", "roc_pneumonia.svg", "calibration_pneumonia.svg"} <= drawn
    assert {"embedding_net.png", "neighbours_net.png"} <= drawn


def test_compare__tables_hold_the_numbers_of_the_page(page):
    summary = pd.read_csv(page.parent / "tables" / "summary.csv")
    html = page.read_text(encoding="utf-8")
    for value in summary["auc"]:
        assert f"{value:.3f}" in html


def test_compare__names_no_place_of_this_machine(page, study):
    for path in page.parent.rglob("*.*"):
        if path.suffix in (".html", ".md", ".csv", ".tex"):
            assert str(study.path.parent) not in path.read_text(encoding="utf-8")
    assert "../" not in page.read_text(encoding="utf-8"), "a way from here leads through folders"
    values = {"cohort": "../../Someone_1950/cohort", "head": {"file": "/a/b.pt"}, "lr": 0.1}
    shown = {"cohort": "…/cohort", "head": {"file": "…/b.pt"}, "lr": 0.1}
    assert json.loads(_readable(values)) == shown


def test_compare__into_a_folder_with_content_is_refused(study, page):
    with pytest.raises(RunError, match="not empty"):
        compare(study.path, page.parent)


def test_compare__leaves_nothing_behind_when_it_refuses(study, tmp_path):
    with pytest.raises(RunError, match="no run here"):
        compare([study.path, tmp_path / "nothing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compare__of_a_moved_study_goes_on_without_the_training(tmp_path, caplog):
    arms = {"SimCLR": ("run", "simclr", (2.0,)), "random": ("random", "", (1.0,))}
    study = make_study(tmp_path, arms=arms, fractions=(0.1,), seeds=2, images=60)
    there = compare(study.path, tmp_path / "a", replicates=20)
    (tmp_path / "sub").mkdir()
    moved = compare(shutil.move(study.path, tmp_path / "sub" / "s"), tmp_path / "b", replicates=20)
    for name in ("summary.csv", "comparisons.csv"):
        before, after = (page.parent / "tables" / name for page in (there, moved))
        assert before.read_text() == after.read_text()
    assert 'id="training"' in there.read_text(encoding="utf-8")
    html = moved.read_text(encoding="utf-8")
    assert 'id="training"' not in html
    assert "The pre-training of SimCLR is not where the study says" in html
    assert "so the page lacks the training of SimCLR" in caplog.text


def test_compare__works_without_its_cohort(tmp_path):
    study = make_study(
        tmp_path, arms={"random": ("random", "", (1.0,))}, fractions=(0.1,), seeds=1, images=60
    )
    page = compare(study.path, tmp_path / "out", title="Alone", replicates=20)
    html = page.read_text(encoding="utf-8")
    assert "<h1>Alone</h1>" in html
    assert "Data sheet" not in html
    assert "One seed only" in html
