"""`--resume FOLDER` needs nothing but the folder, from wherever it is called."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.cohorts import TINY, radiograph_cohort, tiny_run
from tests.command_line import scoutview

from scoutview.base.files import read_json, write_json
from scoutview.nn.backbones import build_backbone
from scoutview.results.run import read_embeddings
from scoutview.results.study import Study

STUDY_V1 = Path(__file__).parents[1] / "results" / "schemas" / "study_v1"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    return radiograph_cohort(folder, {"train": 64, "val": 24, "test": 24})


@pytest.fixture
def run(tmp_path):
    return tiny_run(tmp_path / "run").path


def elsewhere(folder, monkeypatch):
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")


def predictions(folder):
    return [run.predictions()["score"].to_numpy() for _, run in Study.open(folder).runs()]


def transferred(cohort, run, folder):
    """A study of a run, a file of weights and a random backbone; returns what it predicted."""
    shutil.copy(run / "backbone.safetensors", folder / "net.safetensors")
    values = {"backbone": TINY.model_dump(mode="json"), "on_leak": "drop", "seeds": [0, 1]}
    values |= {"mode": {"kind": "linear_probe", "l2": [1.0]}, "std": 0.3}
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    starts = ("--init", run, "--init", "mine=net.safetensors", "--init", "random")
    words = ("--config", "settings.yaml", "--fraction", 0.5, "--out", "study")
    assert scoutview("transfer", cohort, *starts, *words) == 0
    return predictions(folder / "study")


def test_transfer__goes_on_with_the_folder_alone(cohort, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = transferred(cohort, run, tmp_path)
    study = Study.open("study")
    assert [one.name for one in study.content.initialisations] == ["simclr", "mine", "random"]
    assert str(tmp_path) not in Path("study/study.json").read_text()
    for entry in study.content.runs[1::2]:
        shutil.rmtree(study.path / entry.path)
    assert len(study.missing()) == 3
    elsewhere(tmp_path, monkeypatch)
    assert scoutview("transfer", "--resume", tmp_path / "study") == 0
    again = Study.open(tmp_path / "study")
    assert again.missing() == []
    assert again.content == study.content
    np.testing.assert_array_equal(predictions(tmp_path / "study"), expected)


def test_transfer__wrong_settings_are_not_written_down(cohort, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    transferred(cohort, run, tmp_path)
    before = Path("study/study.json").read_bytes()
    words = ("--config", "settings.yaml", "--set", "std=0.7", "--fraction", 0.5, "--resume")
    assert scoutview("transfer", cohort, *words, "--out", "study") == 2
    assert "other settings" in capsys.readouterr().err
    assert Path("study/study.json").read_bytes() == before


def test_transfer__of_an_older_study_asks_for_all_arguments(tmp_path, capsys):
    shutil.copytree(STUDY_V1, tmp_path / "study")
    assert scoutview("transfer", "--resume", tmp_path / "study") == 2
    assert "with all arguments" in capsys.readouterr().err


def test_embed__goes_on_with_the_folder_alone(cohort, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--where", "split == 'test'", "--batch-size", 7)
    assert scoutview("embed", cohort, "run", "--out", "out", *words) == 0
    file = tmp_path / "out" / "embeddings.parquet"
    rows, expected = read_embeddings(file)
    file.unlink()
    elsewhere(tmp_path, monkeypatch)
    assert scoutview("embed", "--resume", tmp_path / "out") == 0
    again, features = read_embeddings(file)
    assert again.equals(rows)
    np.testing.assert_array_equal(features, expected)


def test_embed__of_an_older_version_asks_for_all_arguments(tmp_path, capsys):
    write_json(tmp_path / "embeddings.json", {"run": "a"}, schema="embedding", version=1)
    assert scoutview("embed", "--resume", tmp_path) == 2
    assert "with all arguments" in capsys.readouterr().err


def test_experiment__goes_on_with_the_folder_alone(cohort, tmp_path, monkeypatch, capsys):
    probe = {"mode": {"kind": "linear_probe", "l2": [1.0]}, "fractions": [0.5], "seeds": [0, 1]}
    shared = probe | {"backbone": TINY.model_dump(mode="json"), "on_leak": "drop"}
    pixels = {"kind": "logistic_regression", "l2": [1.0]}
    for name in ("own.pt", "other.pt"):
        torch.save(build_backbone(TINY).state_dict(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    starts = [{"initialisation": word} for word in ("random", "own.pt", "mine=other.pt")]
    arms = [*starts, {"initialisation": "raw_pixels", "mode": pixels}]
    grid = {"arms": arms, "transfer": shared | {"view": {"size": 28}}, "replicates": 100}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    folder = tmp_path / "out"
    assert scoutview("experiment", cohort, "--out", folder, "--config", tmp_path / "grid.yaml") == 0
    expected = predictions(folder / "studies" / "random")
    shutil.rmtree(folder / "results")
    for name in ("random", "own.pt", "mine"):
        shutil.rmtree(folder / "studies" / name)
    elsewhere(tmp_path, monkeypatch)
    assert scoutview("experiment", "--resume", folder) == 0
    assert (folder / "results" / "results.html").is_file()
    np.testing.assert_array_equal(predictions(folder / "studies" / "random"), expected)
    content = read_json(folder / "experiment.json", schema="experiment", version=2)
    assert str(tmp_path) not in str(content)
    del content["cohort"]
    write_json(folder / "experiment.json", content, schema="experiment", version=1)
    assert scoutview("experiment", "--resume", folder) == 2
    assert "give the cohort's folder as well" in capsys.readouterr().err
    assert scoutview("experiment", cohort, "--resume", folder) == 0


@pytest.mark.parametrize(
    ("verb", "extra"),
    [
        ("pretrain", ("--epochs", 3, "--set", "log_every=1")),
        ("transfer", ("--fraction", 0.5, "--set", "std=1")),
        ("embed", ("--out", "other", "--where", "a")),
        ("experiment", ("--config", "grid.yaml", "--set", "replicates=200")),
    ],
)
def test_resume__names_flags_that_would_change_nothing(verb, extra, capsys):
    assert scoutview(verb, "--resume", "folder", *extra) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "takes its settings from the folder" in line
    assert f"{extra[0]}" in line
    assert f"{extra[2]}" in line
    assert scoutview(verb, "--resume", "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["transfer", "embed", "experiment"])
def test_verbs__without_arguments_name_both_forms(verb, capsys):
    assert scoutview(verb, "cohort", "--resume") == 2
    assert "or --resume FOLDER alone" in capsys.readouterr().err
