"""Cross-validation through the command line: index, transfer over folds, compare."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from tests.cohorts import write_radiographs
from tests.command_line import scoutview

from scoutview.index.cohort import Cohort
from scoutview.results.study import Study


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds")
    source = write_radiographs(folder / "set.npz", {"train": 90})
    words = ("--split", "kfold", "--set", "split.folds=3", "--workers", 1)
    assert scoutview("index", source, "--out", folder / "cohort", *words) == 0
    return folder / "cohort"


def test_transfer__of_a_cohort_with_folds_names_them(cohort, tmp_path, capsys):
    assert scoutview("transfer", cohort, "--out", tmp_path / "study") == 2
    assert "with --set folds=[0,1,2]" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "study").exists()


def test_folds__test_every_image_once_and_are_compared(cohort, tmp_path):
    words = ("--set", "folds=[0,1,2]", "--set", "mode.l2=[1.0]", "--on-leak", "drop")
    modes = ("--init", "raw_pixels", "--mode", "logistic_regression")
    assert scoutview("transfer", cohort, *modes, *words, "--out", tmp_path / "study") == 0
    table = Cohort.open(cohort).table
    folds = dict(zip(table["image_id"], table["fold"], strict=True))
    study = Study.open(tmp_path / "study")
    runs = {entry.fold: run.predictions() for entry, run in study.runs()}
    assert sorted(runs) == [0, 1, 2]
    for fold, found in runs.items():
        for part, tested in (("test", fold), ("val", (fold + 1) % 3)):
            images = found.loc[found["split"] == part, "image_id"]
            assert {folds[image] for image in images} == {tested}
    tests = {fold: found.query("split == 'test'") for fold, found in runs.items()}
    assert sorted(pd.concat(tests)["image_id"]) == sorted(table["image_id"])
    assert scoutview("compare", study.path, "--out", tmp_path / "results") == 0
    summary = pd.read_csv(tmp_path / "results" / "tables" / "summary.csv")
    expected = [roc_auc_score(one["target"], one["score"]) for one in tests.values()]
    assert summary["auc"].tolist() == pytest.approx([np.mean(expected)], abs=1e-9)
