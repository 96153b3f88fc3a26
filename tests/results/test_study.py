import shutil
from pathlib import Path

import pytest

from scoutview.base.errors import ConfigError, RunError
from scoutview.results.run import RunFolder
from scoutview.results.study import Study

ASSETS = Path(__file__).parent / "schemas"


@pytest.fixture
def study(tmp_path):
    (tmp_path / "cohort").mkdir()
    return Study.create(tmp_path / "study", task="classification", cohort=tmp_path / "cohort")


def test_study__comes_back_equal_and_names_no_machine_path(study, tmp_path):
    pre = RunFolder.create(tmp_path / "pre", {}, {})
    study.add_initialisation("SimCLR", "run", method="simclr", run=pre.path)
    study.add_run(initialisation="SimCLR", method="linear_probe", fraction=0.1, seed=2)
    opened = Study.open(study.path)
    assert opened.content == study.content
    assert opened.content.cohort == "../cohort"
    assert str(tmp_path) not in (study.path / "study.json").read_text()
    assert opened.pretraining("SimCLR").path.resolve() == pre.path.resolve()
    assert opened.cohort.resolve() == (tmp_path / "cohort").resolve()


def test_study__that_was_moved_names_the_pretraining_it_has_lost(study, tmp_path):
    pre = RunFolder.create(tmp_path / "pre", {}, {})
    study.add_initialisation("SimCLR", "run", method="simclr", run=pre.path)
    study.add_initialisation("random", "random")
    assert study.lost_pretrainings() == []
    (tmp_path / "sub").mkdir()
    moved = Study.open(shutil.move(study.path, tmp_path / "sub" / "study"))
    assert moved.lost_pretrainings() == ["SimCLR"]
    assert moved.pretraining("SimCLR") is None
    assert moved.embeddings("SimCLR") is None


def test_find_cohort__of_version_1_goes_by_place_and_takes_images_over(tmp_path):
    folder = shutil.copytree(ASSETS / "study_v1", tmp_path / "study")
    with pytest.raises(RunError, match="must stay on the images"):
        Study.open(folder).find_cohort(tmp_path / "elsewhere", "a1")
    Study.open(folder).find_cohort(tmp_path / "cohort", "a1")
    Study.open(folder).find_cohort(tmp_path / "elsewhere", "a1")
    assert Study.open(folder).content.cohort == "../elsewhere"
    with pytest.raises(RunError, match="must stay on the images"):
        Study.open(folder).find_cohort(tmp_path / "elsewhere", "b2")


def test_add_run__same_place_in_the_grid_is_one_entry(study):
    study.add_initialisation("random", "random")
    place = {"initialisation": "random", "method": "linear_probe", "fraction": 0.01, "seed": 0}
    first, folder = study.add_run(**place)
    again, _ = study.add_run(**place)
    assert first == again
    assert len(study.content.runs) == 1
    assert folder.parent == study.path / "runs"


def test_missing__lists_runs_not_started_and_not_finished(study):
    study.add_initialisation("random", "random")
    entries = []
    for seed in range(3):
        entry, folder = study.add_run(
            initialisation="random", method="linear_probe", fraction=1.0, seed=seed
        )
        entries.append(entry)
        if seed < 2:
            run = RunFolder.create(folder, {}, {})
            if seed == 0:
                run.finish({})
    assert study.missing() == entries[1:]
    assert [entry.seed for entry, _ in study.runs()] == [0, 1]


def test_add_initialisation__of_the_same_name_and_other_content_is_refused(study):
    study.add_initialisation("net", "random")
    assert study.add_initialisation("net", "random").kind == "random"
    with pytest.raises(RunError, match=r"it was random and is now imagenet.*NAME=PATH"):
        study.add_initialisation("net", "imagenet")


def test_add_initialisation__with_other_weights_is_refused(study):
    study.add_initialisation("net", "file", weights="a1")
    study.add_initialisation("net", "file", weights="a1")
    with pytest.raises(RunError, match=r"weights are others.*NAME=PATH or with --set name="):
        study.add_initialisation("net", "file", weights="b2")
    assert [one.weights for one in Study.open(study.path).content.initialisations] == ["a1"]


def test_add_initialisation__of_version_1_takes_its_weights_over(tmp_path):
    folder = shutil.copytree(ASSETS / "study_v1", tmp_path / "study")
    text = (folder / "study.json").read_text()
    (folder / "study.json").write_text(text.replace('"kind": "random"', '"kind": "file"'))
    study = Study.open(folder)
    study.add_initialisation("random", "file", weights="a1")
    assert Study.open(folder).initialisation("random").weights == "a1"
    with pytest.raises(RunError, match="weights are others"):
        study.add_initialisation("random", "file", weights="b2")


def test_add_run__of_an_unknown_initialisation_names_the_known(study):
    study.add_initialisation("random", "random")
    with pytest.raises(RunError, match="the study has: random"):
        study.add_run(initialisation="simclr", method="linear_probe", fraction=1.0, seed=0)


def test_open__with_an_unknown_key_is_refused(study):
    path = study.path / "study.json"
    path.write_text(path.read_text().replace('"title"', '"titel"'))
    with pytest.raises(ConfigError, match="Did you mean 'title'"):
        Study.open(study.path)


def test_create__in_a_folder_with_content_is_refused(study):
    with pytest.raises(RunError, match="not empty"):
        Study.create(study.path, task="classification", cohort=study.path)
