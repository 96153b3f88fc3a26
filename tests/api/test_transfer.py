import hashlib
import importlib.resources
import json
import multiprocessing
import os
import random
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tests.processes import kill_everywhere

from scoutview.api import transfer_runs
from scoutview.api.index import index
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.store import store
from scoutview.api.transfer import TransferConfig, transfer
from scoutview.api.transfer_checks import told_shares
from scoutview.api.transfer_config import like_run
from scoutview.api.transfer_runs import Cell, FineTune, Images
from scoutview.api.transfer_starts import split_name
from scoutview.base.errors import ConfigError, DataError, LeakageError, RunError
from scoutview.data.samples import DataConfig
from scoutview.methods.simclr import SimCLRConfig
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.nn.optim_config import AdamConfig, CosineSchedule
from scoutview.nn.probe_solvers import fit_linear_probe
from scoutview.pixels.intensity import FullRange
from scoutview.recipes.medmnist_resnet18 import medmnist_logistic_regression, medmnist_resnet18
from scoutview.results.collect import collect
from scoutview.results.run import RunFolder
from scoutview.results.study import Study
from scoutview.tasks.probe import LinearProbe, LogisticRegression, RandomForest
from scoutview.train.config import FitConfig
from scoutview.views.policy import EvalView, TwoCrops

TINY = BackboneConfig(name="resnet10t", stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1))
SHARED = {"backbone": TINY, "view": EvalView(size=28), "fractions": (0.2, 1.0), "seeds": (0, 1)}
PARTS = (("train", 96), ("val", 40), ("test", 48))


def radiographs():
    """Real radiographs of the demo set, each once, in the layout of MedMNIST."""
    demo = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(demo) as path:
        whole = np.load(path)
        arrays = {}
        for part, count in PARTS:
            pick = np.random.default_rng(1).permutation(len(whole[f"{part}_images"]))[:count]
            arrays[f"{part}_images"] = whole[f"{part}_images"][pick]
            arrays[f"{part}_labels"] = whole[f"{part}_labels"][pick]
    return arrays


def build(folder, arrays):
    folder.mkdir()
    np.savez(folder / "set.npz", **arrays)
    index(folder / "set.npz", folder / "cohort")
    return folder / "cohort"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return build(tmp_path_factory.mktemp("transfer") / "plain", radiographs())


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    arrays = radiographs()
    arrays["train_images"][:2] = arrays["val_images"][:2]
    arrays["val_images"][3] = arrays["test_images"][3]
    return build(tmp_path_factory.mktemp("transfer") / "leaking", arrays)


def fine_tune(**settings):
    fit = FitConfig(
        epochs=3, batch_size=32, optimizer=AdamConfig(lr=1e-3, lr_per=None), progress=False
    )
    return FineTune(fit=settings.pop("fit", fit), **settings)


def test_transfer__probe_equals_features_and_solver_by_hand(cohort, tmp_path):
    config = TransferConfig(**SHARED | {"fractions": (1.0,), "mode": LinearProbe(l2=(0.01,))})
    study = Study.open(transfer(cohort, "classification", "random", tmp_path / "study", config))
    ((_, run),) = study.runs()
    found = run.predictions().query("split == 'test'").set_index("image_id")

    from scoutview.index.cohort import Cohort
    from scoutview.store.reader import Store

    table = Cohort.open(cohort).table
    store = Store.open(cohort)
    torch.manual_seed(0)
    backbone = build_backbone(TINY).eval()
    pixels = np.stack([store.read(row) for row in store.row_of(table["image_id"])])
    with torch.no_grad():
        x = backbone(torch.from_numpy((pixels[:, None] / 255 - 0.5) / 0.5).float())
    train, test = (torch.tensor((table["split"] == p).tolist()) for p in ("train", "test"))
    y = torch.tensor(table["label"].tolist(), dtype=torch.float64)[train, None]
    probe = fit_linear_probe(x[train], y, kind="multilabel", l2=0.01)
    expected = probe.probabilities(x[test])[:, 0].numpy()
    ids = table["image_id"][test.numpy()]
    np.testing.assert_allclose(found.loc[ids, "score"], expected, atol=2e-4)
    np.testing.assert_array_equal(found.loc[ids, "target"], table["label"][test.numpy()])


def test_transfer__puts_initialisations_and_baselines_into_one_study(cohort, tmp_path):
    out = tmp_path / "study"
    modes = [
        ("random", LinearProbe(l2=(0.1, 1.0))),
        ("raw_pixels", LogisticRegression(l2=(1.0,))),
        ("raw_pixels", RandomForest(trees=20, min_leaf=(3,))),
        ("random", fine_tune()),
        ("random", fine_tune(kind="frozen_head")),
    ]
    for initialisation, mode in modes:
        config = TransferConfig(mode=mode, **SHARED)
        transfer(cohort, "classification", initialisation, out, config, resume=True)
    study = Study.open(out)
    assert {i.name: i.kind for i in study.content.initialisations} == {
        "random": "random",
        "raw_pixels": "raw_pixels",
        "supervised": "supervised",
    }
    assert study.missing() == []
    collection = collect([out])
    assert len(collection.arms) == 5
    trained = {}
    for run in collection.runs:
        assert set(run.predictions["split"]) == {"val", "test"}
        trained.setdefault((run.entry.fraction, run.entry.seed), []).append(
            run.folder.config["images"]
        )
    for counts in trained.values():
        assert all(count == counts[0] for count in counts)
    assert not list(out.glob("runs/*/checkpoints/*"))


def test_transfer__runs_an_exact_probe_on_all_labels_once_and_says_so(cohort, tmp_path):
    config = TransferConfig(mode=LinearProbe(l2=(1.0,)), **SHARED)
    study = Study.open(transfer(cohort, "classification", "random", tmp_path / "s", config))
    places = [(run.fraction, run.seed) for run in study.content.runs]
    assert places == [(0.2, 0), (0.2, 1), (1.0, 0)]
    for _, run in study.runs():
        assert run.summary()["epoch_choice"] == "none"
        assert "chosen_by" not in run.summary()  # there was one penalty to choose from
    assert "every seed would repeat it; it was run once" in study.content.details["notes"][0]


def test_transfer__says_that_a_share_is_less_than_one_patient(cohort, tmp_path, caplog):
    """96 images, of which each counts as a patient: 0.5 % are 0.48 images, 2 % are 1.92."""
    mode = LinearProbe(l2=(1.0,))
    config = TransferConfig(**SHARED | {"fractions": (0.005, 0.02), "seeds": (0,), "mode": mode})
    told = (
        "0.5 % of the labels would be less than one of the 96 images to learn from; each run learns"
        " from one image, which is 1 %."
    )
    study = Study.open(
        transfer(cohort, "classification", ["random", "two=random"], tmp_path / "s", config)
    )
    assert [run.config["images"]["train"] for _, run in study.runs()] == [1, 2] * 2
    assert caplog.text.count("would be less than one of") == 1
    assert told in caplog.text
    assert study.content.details["notes"] == [told]


def test_told_shares__counts_patients_and_their_images():
    table = pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(10)], "patient_id": [f"p{k // 2}" for k in range(10)]}
    )
    images = Images(table, None, None, None)
    rows = np.arange(10)
    cells = [Cell(rows[:n], rows, rows, 0.05, n, -1) for n in (1, 2)]
    assert told_shares(images, {-1: {"train": rows}}, cells) == [
        "5 % of the labels would be less than one of the 5 patients to learn from; each run learns"
        " from one patient with 1 to 2 images, which is 20 %."
    ]
    assert (
        told_shares(images, {-1: {"train": rows}}, [replace(c, fraction=0.1) for c in cells]) == []
    )


def test_transfer__says_before_training_that_a_label_cannot_be_tested(tmp_path, caplog):
    arrays = radiographs()
    arrays["test_labels"][:] = 0
    cohort = build(tmp_path / "negative", arrays)
    config = TransferConfig(**SHARED | {"fractions": (0.2,), "mode": LinearProbe(l2=(1.0,))})
    caplog.set_level("INFO")
    transfer(cohort, "classification", "random", tmp_path / "s", config)
    told, trained = (caplog.text.index(text) for text in ("Label 'label': test", "run 1 of 2"))
    assert told < trained
    assert "test has 0 positive and 48 negative images, so its AUC does not exist" in caplog.text
    assert "Label 'label': val" not in caplog.text


def test_transfer__gives_every_initialisation_the_same_subset(cohort, tmp_path, monkeypatch):
    seen = []
    original = transfer_runs.fit_classifier

    def spy(mode, numbers, images, cell):
        seen.append((cell.seed, tuple(images.table["image_id"].iloc[cell.train])))
        return original(mode, numbers, images, cell)

    monkeypatch.setattr("scoutview.api.transfer.fit_classifier", spy)
    settings = SHARED | {"fractions": (0.2,)}
    for initialisation, mode in (
        ("random", LinearProbe(l2=(1.0,))),
        ("raw_pixels", LogisticRegression(l2=(1.0,))),
    ):
        config = TransferConfig(mode=mode, **settings)
        transfer(cohort, "classification", initialisation, tmp_path / initialisation, config)
    digests = [
        [run.summary()["train_images_sha256"] for _, run in Study.open(tmp_path / name).runs()]
        for name in ("random", "raw_pixels")
    ]
    expected = [hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest() for _, ids in seen]
    assert digests[0] + digests[1] == expected
    assert seen[:2] == seen[2:]
    assert seen[0][1] != seen[1][1]


def test_transfer__resumed_equals_uninterrupted(cohort, tmp_path, monkeypatch):
    fit = FitConfig(
        epochs=3,
        batch_size=32,
        optimizer=AdamConfig(lr=1e-3, lr_per=None),
        progress=False,
        checkpoint_every=2,
    )
    config = TransferConfig(**SHARED | {"fractions": (1.0,), "mode": fine_tune(fit=fit)})
    whole = Study.open(transfer(cohort, "classification", "random", tmp_path / "a", config))

    class Killed(Exception):  # noqa: N818
        pass

    calls = []
    original = transfer_runs.Selection.measure

    def dies(self, objective, device):
        calls.append(1)
        if len(calls) == 5:  # the second seed's second epoch
            raise Killed
        return original(self, objective, device)

    with monkeypatch.context() as patch:
        patch.setattr(transfer_runs.Selection, "measure", dies)
        with pytest.raises(Killed):
            transfer(cohort, "classification", "random", tmp_path / "b", config)
    done = Study.open(tmp_path / "b")
    assert [entry.seed for entry in done.missing()] == [1]
    before = (done.path / done.content.runs[0].path / "summary.json").stat().st_mtime_ns
    transfer(cohort, "classification", "random", tmp_path / "b", config, resume=True)
    resumed = Study.open(tmp_path / "b")
    after = (resumed.path / resumed.content.runs[0].path / "summary.json").stat().st_mtime_ns
    assert before == after
    for (_, one), (_, other) in zip(whole.runs(), resumed.runs(), strict=True):
        pd.testing.assert_frame_equal(one.predictions(), other.predictions())
        assert one.backbone.read_bytes() == other.backbone.read_bytes()
        assert one.summary()["chosen_epoch"] == other.summary()["chosen_epoch"]


@pytest.mark.slow
def test_transfer__killed_anywhere_goes_on_with_resume(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    config = TransferConfig(
        **SHARED | {"fractions": (0.2,), "mode": LogisticRegression(l2=(1.0,)), "on_leak": "drop"}
    )
    folder = tmp_path / "killed"

    def run(place, resume=True):
        study = transfer(cohort, "classification", "raw_pixels", place, config, resume=resume)
        return [run.predictions() for _, run in Study.open(study).runs()]

    expected = run(tmp_path / "whole")

    def check(n):
        if (folder / "study.json").is_file():
            for entry, begun in Study.open(folder).runs():
                if begun.finished:
                    pd.testing.assert_frame_equal(begun.predictions(), expected[entry.seed])
        for found, wanted in zip(run(folder), expected, strict=True):
            pd.testing.assert_frame_equal(found, wanted)
        assert not list(folder.rglob("*.new"))
        shutil.rmtree(folder)

    def only_reads(arguments):
        return str(arguments[0]).startswith(str(cohort))

    assert kill_everywhere(lambda: run(folder), check, skip=only_reads, stride=3) > 8


def die_in_training(cohort, folder, config, seed, step):
    """Fine-tune in a process that SIGKILL ends in one step of one seed."""
    torch.set_num_threads(1)
    original = transfer_runs.fit

    def dying(objective, source, fitting, *arguments, **named):
        forward = objective.forward

        def count(batch, progress):
            if (fitting.seed, progress.step) == (seed, step):
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(batch, progress)

        objective.forward = count
        return original(objective, source, fitting, *arguments, **named)

    transfer_runs.fit = dying
    transfer(cohort, "classification", "random", folder, config)


@pytest.mark.ddp
def test_transfer__killed_in_training_and_resumed_is_bit_equal(cohort, tmp_path):
    fit = FitConfig(
        epochs=3,
        batch_size=32,
        optimizer=AdamConfig(lr=1e-3, lr_per=None),
        progress=False,
        checkpoint_every=2,
    )
    config = TransferConfig(**SHARED | {"fractions": (1.0,), "mode": fine_tune(fit=fit)})
    step = random.Random("transfer").randrange(1, 9)
    print(f"seed 1 is killed at step {step}")
    store(cohort)  # once, before two processes ask for it
    context = multiprocessing.get_context("forkserver")
    arguments = (cohort, tmp_path / "killed", config, 1, step)
    child = context.Process(target=die_in_training, args=arguments)
    child.start()
    torch.set_num_threads(1)
    whole = Study.open(transfer(cohort, "classification", "random", tmp_path / "whole", config))
    child.join(240)
    assert child.exitcode == -signal.SIGKILL
    assert [entry.seed for entry in Study.open(tmp_path / "killed").missing()] == [1]
    transfer(cohort, "classification", "random", tmp_path / "killed", config, resume=True)
    resumed = Study.open(tmp_path / "killed")
    assert resumed.missing() == []
    for (_, one), (_, other) in zip(whole.runs(), resumed.runs(), strict=True):
        pd.testing.assert_frame_equal(one.predictions(), other.predictions())
        assert one.backbone.read_bytes() == other.backbone.read_bytes()
        assert one.metrics()["step"].tolist() == other.metrics()["step"].tolist()


def test_transfer__stops_early_and_tests_the_chosen_epoch(cohort, tmp_path, monkeypatch):
    scores = iter([0.7, 0.9, 0.8, 0.8, 0.99, 0.99])
    monkeypatch.setattr(transfer_runs, "macro_auc", lambda *_: next(scores))
    fit = FitConfig(
        epochs=6, batch_size=32, optimizer=AdamConfig(lr=1e-3, lr_per=None), progress=False
    )
    mode = fine_tune(fit=fit, patience=2)
    config = TransferConfig(**SHARED | {"fractions": (1.0,), "seeds": (0,), "mode": mode})
    study = Study.open(transfer(cohort, "classification", "random", tmp_path / "s", config))
    ((_, run),) = study.runs()
    summary = run.summary()
    assert (summary["chosen_epoch"], summary["epochs"]) == (2, 4)
    assert summary["epoch_choice"] == "validation"
    assert summary["time_s"] == run.metrics()["time_s"].iloc[-1]
    assert run.metrics()["val_auc"].dropna().tolist() == [0.7, 0.9, 0.8, 0.8]


def test_transfer__counts_the_time_before_a_resume(cohort, tmp_path, monkeypatch):
    original = transfer_runs.fit
    monkeypatch.setattr(
        transfer_runs, "fit", lambda *a, **k: replace(original(*a, **k), time_s=1234.5)
    )
    fit = FitConfig(
        epochs=1, batch_size=32, optimizer=AdamConfig(lr=1e-3, lr_per=None), progress=False
    )
    config = TransferConfig(
        **SHARED | {"fractions": (0.2,), "seeds": (0,), "mode": fine_tune(fit=fit)}
    )
    study = Study.open(transfer(cohort, "classification", "random", tmp_path / "s", config))
    ((_, run),) = study.runs()
    assert run.summary()["time_s"] == 1234.5


def test_transfer__refuses_copies_across_the_split(leaking, tmp_path):
    with pytest.raises(LeakageError, match="2 images of train are exact copies of val"):
        transfer(leaking, "classification", "random", tmp_path / "s", TransferConfig(**SHARED))
    assert not (tmp_path / "s").exists()


def test_transfer__drops_copies_and_names_them(leaking, tmp_path):
    config = TransferConfig(
        **SHARED | {"fractions": (1.0,)}, mode=LinearProbe(l2=(1.0,)), on_leak="drop"
    )
    study = Study.open(transfer(leaking, "classification", "random", tmp_path / "s", config))
    groups = {
        (g["split"], g["of_split"], g["kind"]): g["image_ids"]
        for g in study.content.details["dropped_duplicates"]
    }
    assert len(groups["train", "val", "exact"]) == 2
    assert len(groups["val", "test", "exact"]) == 1
    ((_, run),) = study.runs()
    assert run.config["images"] == {"train": 94, "val": 39, "test": 48}
    dropped = {image for ids in groups.values() for image in ids}
    assert not dropped & set(run.predictions()["image_id"])


def test_transfer__says_that_copies_were_allowed(leaking, tmp_path):
    config = TransferConfig(
        **SHARED | {"fractions": (1.0,)}, mode=LinearProbe(l2=(1.0,)), on_leak="allow"
    )
    study = Study.open(transfer(leaking, "classification", "random", tmp_path / "s", config))
    assert "were allowed: 2 images of train" in study.content.details["notes"][0]
    ((_, run),) = study.runs()
    assert run.config["images"]["train"] == 96


def test_transfer__refuses_wrong_requests_before_anything_is_written(cohort, tmp_path):
    out = tmp_path / "s"
    with pytest.raises(ConfigError, match="Did you mean 'classification'"):
        transfer(cohort, "clasification", "random", out)
    with pytest.raises(ConfigError, match="neither a run folder"):
        transfer(cohort, "classification", tmp_path / "nothing", out)
    with pytest.raises(ConfigError, match="'raw_pixels' and the mode"):
        transfer(cohort, "classification", "raw_pixels", out)
    with pytest.raises(ConfigError, match="Unknown label 'tumour'"):
        transfer(cohort, "classification", "random", out, TransferConfig(labels=("tumour",)))
    with pytest.raises(ConfigError, match="at least 3 folds"):
        transfer(cohort, "classification", "random", out, TransferConfig(folds=(0,)))
    part = TransferConfig.build({"data": {"where": "split != 'val'"}})
    with pytest.raises(DataError, match="image is in val"):
        transfer(cohort, "classification", "random", out, part)
    assert not out.exists()


def test_transfer__refuses_an_occupied_folder_and_changed_settings(cohort, tmp_path):
    config = TransferConfig(**SHARED | {"fractions": (0.2,)}, mode=LinearProbe(l2=(1.0,)))
    out = transfer(cohort, "classification", "random", tmp_path / "s", config)
    with pytest.raises(RunError, match="not empty"):
        transfer(cohort, "classification", "random", out, config)
    changed = config.model_copy(update={"mode": LinearProbe(l2=(0.5,))})
    with pytest.raises(ConfigError, match="other settings"):
        transfer(cohort, "classification", "random", out, changed, resume=True)
    longer = config.model_copy(update={"seeds": (0, 1, 2)})
    transfer(cohort, "classification", "random", out, longer, resume=True)
    assert [run.seed for run in Study.open(out).content.runs] == [0, 1, 2]


def test_transfer__resumes_on_a_cohort_that_has_moved_and_on_no_other(tmp_path):
    first = build(tmp_path / "first", radiographs())
    config = TransferConfig(**SHARED | {"fractions": (0.2,)}, mode=LinearProbe(l2=(1.0,)))
    out = transfer(first, "classification", "random", tmp_path / "s", config)
    moved = shutil.move(first, tmp_path / "moved")
    longer = config.model_copy(update={"seeds": (0, 1, 2)})
    transfer(moved, "classification", "random", out, longer, resume=True)
    study = Study.open(out)
    assert study.cohort.resolve() == moved
    assert len(list(study.runs())) == 3
    fewer = radiographs()
    fewer |= {name: fewer[name][1:] for name in ("val_images", "val_labels")}
    other = build(tmp_path / "other", fewer)
    with pytest.raises(RunError, match="must stay on the images and the split"):
        transfer(other, "classification", "random", out, longer, resume=True)
    assert Study.open(out).content == study.content


def test_transfer__reads_weights_from_a_file(cohort, tmp_path):
    torch.manual_seed(3)
    torch.save(build_backbone(TINY).model.state_dict(), tmp_path / "mine.pt")
    config = TransferConfig(**SHARED | {"fractions": (1.0,)}, mode=LinearProbe(l2=(1.0,)))
    out = transfer(cohort, "classification", tmp_path / "mine.pt", tmp_path / "s", config)
    (one,) = Study.open(out).content.initialisations
    assert (one.name, one.kind) == ("mine", "file")


def write_weights(file, seed):
    file.parent.mkdir()
    torch.manual_seed(seed)
    torch.save(build_backbone(TINY).model.state_dict(), file)
    return file


def test_transfer__refuses_other_weights_under_the_same_name(cohort, tmp_path):
    config = TransferConfig(**SHARED | {"fractions": (0.2,)}, mode=LinearProbe(l2=(1.0,)))
    one, other = (write_weights(tmp_path / name / "net.pt", len(name)) for name in ("a", "bc"))
    out = transfer(cohort, "classification", one, tmp_path / "s", config)
    before = (out / "study.json").read_bytes()
    longer = config.model_copy(update={"seeds": (2,)})
    with pytest.raises(RunError, match=r"'net' must stay what it was.*weights are others"):
        transfer(cohort, "classification", other, out, longer, resume=True)
    assert (out / "study.json").read_bytes() == before
    shutil.copy(other, one)  # trained again at the same place
    with pytest.raises(RunError, match="weights are others"):
        transfer(cohort, "classification", one, out, longer, resume=True)


def test_transfer__equal_names_are_refused_before_anything_is_written(cohort, tmp_path):
    config = TransferConfig(**SHARED | {"fractions": (0.2,)}, mode=LinearProbe(l2=(1.0,)))
    files = [write_weights(tmp_path / name / "net.pt", len(name)) for name in ("a", "bc")]
    with pytest.raises(ConfigError, match="net comes more than once; name each as NAME=PATH"):
        transfer(cohort, "classification", files, tmp_path / "s", config)
    with pytest.raises(ConfigError, match="raw pixels need both"):
        transfer(cohort, "classification", ["random", "raw_pixels"], tmp_path / "s", config)
    assert not (tmp_path / "s").exists()
    named = [f"first={files[0]}", f"second={files[1]}"]
    study = Study.open(transfer(cohort, "classification", named, tmp_path / "s", config))
    assert [one.name for one in study.content.initialisations] == ["first", "second"]
    assert len(list(study.runs())) == 4
    first, second = (run.predictions()["score"] for _, run in list(study.runs())[::2])
    assert not np.array_equal(first, second)


def test_split_name__leaves_paths_with_an_equals_sign_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    assert split_name("mine=runs/a") == ("mine", "runs/a")
    assert split_name("lr=1") == (None, "lr=1")
    assert split_name("runs/lr=1/net.pt") == (None, "runs/lr=1/net.pt")
    assert split_name("mine=runs/lr=1/net.pt") == ("mine", "runs/lr=1/net.pt")


def test_transfer__writes_no_path_and_nothing_private(cohort, tmp_path):
    config = TransferConfig(**SHARED | {"fractions": (1.0,)}, mode=LinearProbe(l2=(1.0,)))
    out = transfer(cohort, "classification", "random", tmp_path / "s", config)
    for file in [out / "study.json", *out.glob("runs/*/config.json")]:
        assert str(tmp_path) not in file.read_text()
        json.loads(file.read_text())


def test_recipe__states_the_published_protocol():
    config = medmnist_resnet18()
    fit = config.mode.fit
    assert (fit.epochs, fit.batch_size, fit.precision) == (100, 128, "bf16-mixed")
    assert (fit.optimizer.kind, fit.optimizer.lr, fit.optimizer.lr_per) == ("adam", 1e-3, None)
    assert (fit.schedule.milestones, fit.schedule.factor) == ((50, 75), 0.1)
    assert (config.mean, config.std, config.view.size) == (0.5, 0.5, 28)
    assert (config.backbone.name, config.backbone.small_stem) == ("resnet18", True)
    assert config.mode.views is None
    assert config.mode.epoch_choice == "validation"
    pixels = medmnist_logistic_regression()
    assert pixels.view == config.view
    assert pixels.on_leak == config.on_leak


def pretrained(cohort, out, split):
    return pretrain(
        cohort,
        "simclr",
        out,
        config=PretrainConfig(
            samples=96,
            batch_size=24,
            backbone=TINY,
            probe_every=None,
            progress=False,
            mean=0.4,
            data=DataConfig(split=split),
        ),
        settings=SimCLRConfig(views=TwoCrops(size=28)),
    )


@pytest.mark.filterwarnings("ignore::scoutview.base.errors.ScoutviewWarning")
def test_transfer__shows_a_pretrained_backbone_what_it_was_trained_on(cohort, tmp_path):
    run = pretrained(cohort, tmp_path / "run", "train")
    settings = {"fractions": (1.0,), "mode": LinearProbe(l2=(1.0,))}
    out = transfer(cohort, "classification", run, tmp_path / "s", TransferConfig(**settings))
    study = Study.open(out)
    (one,) = study.content.initialisations
    assert (one.name, one.kind, one.method) == ("simclr", "run", "simclr")
    assert study.pretraining("simclr").path.resolve() == run.resolve()
    ((_, probed),) = study.runs()
    assert probed.config["mean"] == 0.4
    assert probed.config["view"]["size"] == 28
    other = TransferConfig(**settings, std=0.25)
    with_note = transfer(cohort, "classification", run, tmp_path / "other", other)
    notes = Study.open(with_note).content.details["notes"]
    assert any("pre-trained with another std" in note for note in notes)


@pytest.mark.filterwarnings("ignore::scoutview.base.errors.ScoutviewWarning")
def test_transfer__refuses_a_backbone_that_has_seen_the_test_images(cohort, tmp_path):
    run = pretrained(cohort, tmp_path / "run", "test")
    config = TransferConfig(fractions=(1.0,), mode=LinearProbe(l2=(1.0,)))
    with pytest.raises(LeakageError, match="48 of 48 test images were in the pre-training set"):
        transfer(cohort, "classification", run, tmp_path / "s", config)
    allowed = config.model_copy(update={"on_leak": "allow"})
    out = transfer(cohort, "classification", run, tmp_path / "s", allowed)
    assert any("this was allowed" in n for n in Study.open(out).content.details["notes"])


def test_like_run__copies_view_grey_values_and_pixels_policy_where_the_user_is_silent(tmp_path):
    theirs = DataConfig(split="train", where="height > 1", intensity=FullRange(), channel="colour")
    values = PretrainConfig(data=theirs, mean=0.4).model_dump(mode="json")
    values["view"] = EvalView(size=28).model_dump(mode="json")
    run = RunFolder.create(tmp_path / "run", values, {})
    found = like_run(TransferConfig(data=DataConfig(where="width > 1")), run.path)
    assert (found.mean, found.view.size) == (0.4, 28)
    assert (found.data.intensity, found.data.channel) == (FullRange(), "colour")
    assert (found.data.where, found.data.split) == ("width > 1", None)
    written = like_run(TransferConfig(data=DataConfig(channel="grey")), run.path)
    assert (written.data.intensity, written.data.channel) == (FullRange(), "grey")


def test_transfer__a_warmup_that_never_ends_is_refused_before_anything_is_written(cohort, tmp_path):
    fit = FitConfig(epochs=2, batch_size=16, schedule=CosineSchedule(warmup_epochs=2))
    config = TransferConfig(mode=fine_tune(fit=fit), **SHARED)
    with pytest.raises(ConfigError, match=r"warmup_epochs must end before the training of 2"):
        transfer(cohort, "classification", "random", tmp_path / "s", config)
    assert not (tmp_path / "s").exists()
