import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tests.cohorts import TINY, radiograph_cohort
from tests.processes import kill_everywhere

from scoutview.api import experiment as module
from scoutview.api.experiment import Arm, ExperimentConfig, Pretraining, experiment
from scoutview.api.pretrain import PretrainConfig
from scoutview.api.transfer import TransferConfig
from scoutview.base.errors import ConfigError, RunError, ScoutviewError
from scoutview.base.files import write_text
from scoutview.base.progress import show_bars
from scoutview.index.cohort import Cohort
from scoutview.methods.simclr import SimCLRConfig
from scoutview.results.run import RunFolder
from scoutview.results.study import Study
from scoutview.store.reader import Store
from scoutview.tasks.probe import LinearProbe, LogisticRegression
from scoutview.train.signals import TrainingStoppedError
from scoutview.views.policy import EvalView

COUNTS = {"train": 64, "val": 24, "test": 24}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return radiograph_cohort(tmp_path_factory.mktemp("experiment"), COUNTS)


def grid(**changes):
    pretraining = Pretraining(
        method="simclr",
        settings=SimCLRConfig(hidden_dim=16, output_dim=8, temperature=0.2),
        config=PretrainConfig(
            epochs=2,
            batch_size=32,
            backbone=TINY,
            accelerator="cpu",
            probe_every=None,
            progress=False,
        ),
    )
    values = {
        "arms": (
            Arm(pretraining=pretraining),
            Arm(initialisation="random"),
            Arm(initialisation="raw_pixels", mode=LogisticRegression(l2=(1.0,)), name="pixels"),
        ),
        "transfer": TransferConfig(
            mode=LinearProbe(l2=(1.0,)),
            fractions=(0.5,),
            seeds=(0, 1),
            backbone=TINY,
            view=EvalView(size=28),
            on_leak="drop",
        ),
        "replicates": 100,
        "title": "Grid",
    }
    return ExperimentConfig(**values | changes)


def scores(folder):
    """Predictions of every run by arm and run."""
    found = {}
    for study in sorted((folder / "studies").iterdir()):
        for entry, run in Study.open(study).runs():
            key = (study.name, entry.method, entry.fraction, entry.seed)
            found[key] = run.predictions()["score"].to_numpy()
    return found


@pytest.fixture(scope="module")
def done(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    return experiment(cohort, folder, grid()).parent.parent


def test_experiment__makes_runs_studies_embeddings_and_one_page(done):
    assert (done / "pretraining" / "simclr" / "summary.json").is_file()
    assert len(scores(done)) == 6
    study = Study.open(done / "studies" / "simclr")
    assert (study.embeddings_folder("simclr") / "embeddings.parquet").is_file()
    html = (done / "results" / "results.html").read_text(encoding="utf-8")
    assert all(name in html for name in ("simclr", "random", "pixels", "<h1>Grid</h1>"))


def test_experiment__again_trains_nothing(cohort, done, monkeypatch):
    kept = [*(done / "pretraining").rglob("*.*"), *(done / "studies").rglob("*.*")]
    before = {path: path.stat().st_mtime_ns for path in kept if path.name != "study.json"}

    def refuse(*arguments, **options):
        raise AssertionError("nothing must be trained twice")

    monkeypatch.setattr(module, "pretrain", refuse)
    monkeypatch.setattr("scoutview.api.transfer.embed", refuse)
    page = experiment(cohort, done, grid(), resume=True)
    assert page.is_file()
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_experiment__an_occupied_folder_needs_resume(cohort, done):
    with pytest.raises(RunError, match="is not empty"):
        experiment(cohort, done, grid())


def test_experiment__another_pretraining_under_the_same_name_is_refused(cohort, done):
    first, *others = grid().arms
    longer = first.pretraining.config.model_copy(update={"samples": 4096, "epochs": None})
    changed = first.pretraining.model_copy(update={"config": longer})
    arms = (first.model_copy(update={"pretraining": changed}), *others)
    with pytest.raises(ConfigError, match="begun with other pre-training settings"):
        experiment(cohort, done, grid(arms=arms), resume=True)


def test_experiment__a_failing_page_leaves_the_old_one(cohort, done, monkeypatch):
    page = (done / "results" / "results.html").read_bytes()

    def fails(studies, out, **options):
        Path(out).mkdir()
        raise RunError("no page today")

    monkeypatch.setattr(module, "compare", fails)
    with pytest.raises(RunError, match="no page today"):
        experiment(cohort, done, grid(), resume=True)
    assert (done / "results" / "results.html").read_bytes() == page
    assert not (done / ".results.before").exists()


def test_replaced__killed_anywhere_is_old_or_new_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    place = tmp_path / "results"

    def write(word):
        with module._replaced(place) as folder:
            folder.mkdir()
            for name in ("a", "b"):
                write_text(folder / name, word * 100)

    def words():
        return {file.name: file.read_text()[:3] for file in place.iterdir()}

    def check(n):
        if place.exists():  # between two renames there is nothing, never a part
            assert words() in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
        with pytest.raises(KeyError), module._replaced(place):
            raise KeyError  # the next attempt fails by itself: something whole is left
        assert words() in ({"a": "old", "b": "old"}, {"a": "new", "b": "new"})
        write("new")
        assert words() == {"a": "new", "b": "new"}
        assert [file.name for file in tmp_path.iterdir()] == ["results"]
        write("old")

    write("old")
    assert kill_everywhere(lambda: write("new"), check) > 10


def test_experiment__a_failing_arm_is_named_and_the_others_are_kept(cohort, done):
    broken = Arm(initialisation="random", name="broken", mode=LinearProbe())
    config = grid(arms=(*grid().arms, broken))
    wrong = config.transfer.model_copy(update={"labels": ("fracture",)})
    with pytest.raises(RunError, match=r"Arm 'simclr': .*fracture"):
        experiment(cohort, done, config.model_copy(update={"transfer": wrong}), resume=True)
    nowhere = Arm(initialisation="nowhere", name="broken")
    with pytest.raises(RunError, match="Arm 'broken': Initialisation 'nowhere'"):
        experiment(cohort, done, grid(arms=(*grid().arms, nowhere)), resume=True)
    assert len(scores(done)) >= 6
    assert (done / "results" / "results.html").is_file()


def test_experiment__where_selects_in_store_pretraining_transfer_and_embeddings(tmp_path):
    cohort = radiograph_cohort(tmp_path, COUNTS)
    table = Cohort.open(cohort).table
    wanted = set(table["image_id"][table["image_id"] > "5"])
    assert 40 < len(wanted) < len(table) - 20
    arms = (
        grid().arms[0],
        Arm(initialisation="random"),
    )
    transfer = grid().transfer
    narrow = transfer.data.model_copy(update={"where": "image_id > '3'"})
    transfer = transfer.model_copy(update={"data": narrow, "seeds": (0,)})
    config = grid(arms=arms, transfer=transfer, where="image_id > '5'")
    experiment(cohort, tmp_path / "out", config)
    assert len(Store.open(cohort)) == len(wanted)
    run = RunFolder.open(tmp_path / "out" / "pretraining" / "simclr")
    assert run.config["data"]["where"] == "image_id > '5'"
    study = Study.open(tmp_path / "out" / "studies" / "simclr")
    (_, probed), *_ = study.runs()
    assert probed.config["data"]["where"] == "(image_id > '5') and (image_id > '3')"
    assert set(probed.predictions()["image_id"]) <= wanted
    rows, _ = study.embeddings("simclr")
    assert set(rows["image_id"]) == wanted
    with pytest.raises(ConfigError, match="begun with other pre-training settings"):
        experiment(cohort, tmp_path / "out", grid(arms=arms, where="height > 1"), resume=True)


def test_experiment__shows_a_bar_for_all_that_runs(tmp_path, terminal):
    show_bars()
    cohort = radiograph_cohort(tmp_path, COUNTS)
    probe = grid().arms[0].pretraining
    quick = probe.config.model_copy(update={"epochs": 1, "progress": True})
    arm = Arm(pretraining=probe.model_copy(update={"config": quick}))
    experiment(cohort, tmp_path / "out", grid(arms=(arm, Arm(initialisation="random"))))
    shown = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|━|╸|╺", "", terminal.getvalue()).split())
    done = ("index 1/1", "store 112/112", "simclr 2/2", "embed 112/112")
    done += ("transfer simclr 2/2", "transfer random 2/2", "experiment 3/3")
    for bar in done:
        assert bar in shown, bar


@pytest.mark.slow
@pytest.mark.ddp
def test_experiment__two_workers_give_the_same_predictions(cohort, done, tmp_path):
    experiment(cohort, tmp_path / "two", grid(), workers=2)
    found, expected = scores(tmp_path / "two"), scores(done)
    assert found.keys() == {k for k in expected if k[0] != "broken"}
    for key, values in found.items():
        # Ray takes one thread, so that sums round otherwise.
        np.testing.assert_allclose(values, expected[key], rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.ddp
def test_experiment__on_a_local_ray_gives_the_same_predictions(cohort, done, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        experiment(cohort, tmp_path / "ray", grid(), backend="ray")
        nowhere = grid(arms=(Arm(initialisation="nowhere", name="broken"),))
        with pytest.raises(RunError, match="Arm 'broken': Initialisation 'nowhere'"):
            experiment(cohort, tmp_path / "ray", nowhere, backend="ray", resume=True)
    finally:
        ray.shutdown()
    found, expected = scores(tmp_path / "ray"), scores(done)
    assert found.keys() == {k for k in expected if k[0] != "broken"}
    for key, values in found.items():
        # Ray takes one thread, so that sums round otherwise.
        np.testing.assert_allclose(values, expected[key], rtol=0, atol=1e-3)


def test_config__survives_json_with_the_settings_of_the_method():

    config = grid()
    again = ExperimentConfig.build(json.loads(json.dumps(config.written())))
    assert again == config
    settings = again.arms[0].pretraining.settings
    assert isinstance(settings, SimCLRConfig)
    assert (settings.temperature, settings.hidden_dim) == (0.2, 16)
    written = config.arms[0].pretraining.settings.model_fields_set
    assert settings.model_fields_set == written, "defaults stay defaults, preflight may lower them"
    with pytest.raises(ConfigError, match="temperature_"):
        ExperimentConfig.build(
            {"arms": [{"pretraining": {"method": "simclr", "settings": {"temperature_": 1}}}]}
        )


def test_config__refuses_equal_names_and_arms_without_one_start():
    random = Arm(initialisation="random")
    with pytest.raises(ValidationError, match="come twice: random"):
        ExperimentConfig(arms=(random, random))
    with pytest.raises(ValidationError, match="either an initialisation or a pretraining"):
        Arm(name="nothing")
    arm = {"initialisation": "random", "name": "a"}
    with pytest.raises(ConfigError, match="come twice: a"):
        ExperimentConfig.build({"arms": [arm, arm]})


def test_label__tells_arms_with_other_modes_apart():
    plain = Arm(initialisation="random")
    other = Arm(initialisation="random", mode=LinearProbe())
    assert (plain.label, other.label) == ("random", "random-linear_probe")
    assert Arm(initialisation="random", name="mine").label == "mine"


@pytest.mark.parametrize(
    "error", [RunError("a"), ConfigError("b"), TrainingStoppedError("SIGTERM", 3, Path("run"))]
)
def test_errors__come_back_from_other_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ScoutviewError)
    assert (type(again), str(again)) == (type(error), str(error))
