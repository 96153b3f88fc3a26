import numpy as np
import pytest
from tests.results.synthetic import add_run, make_study, simulated

from scoutview.base.errors import DataError, RunError
from scoutview.results.collect import collect
from scoutview.results.run import RunFolder

ARMS = {"SimCLR": ("run", "simclr", (1.5,)), "random": ("random", "", (1.0,))}


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path, arms=ARMS, fractions=(0.1,), seeds=2, images=60)


def scores(seed=99, images=60):
    rng = np.random.default_rng(seed)
    targets = (np.random.default_rng(7).random(images) < 0.6).astype(int)
    return simulated(targets, 1.0, rng, rng.standard_normal(images))


def test_collect__finds_arms_and_runs(study):
    found = collect([study.path])
    assert [arm.name for arm in found.arms] == ["SimCLR", "random"]
    assert [arm.pretrained for arm in found.arms] == [True, False]
    assert len(found.runs) == 4
    assert found.fractions == [0.1]
    assert set(found.runs[0].test["split"]) == {"test"}


def test_collect__names_an_arm_by_its_method_only_where_two_are_compared(study):
    add_run(study, "random", 0.1, 0, scores(), method="fine_tune")
    names = [arm.name for arm in collect([study.path]).arms]
    assert names == ["SimCLR", "random, linear probe", "random, fine tune"]


def test_collect__tells_files_of_the_same_name_apart_by_their_weights(tmp_path):
    arms = {"backbone": ("file", "", (1.5,))}
    studies = []
    for place, (weights, seed) in {"a": ("a1", 0), "b": ("b2", 1)}.items():
        studies.append(make_study(tmp_path / place, arms=arms, fractions=(0.1,), seeds=0))
        studies[-1].add_initialisation("backbone", "file", weights=weights)
        add_run(studies[-1], "backbone", 0.1, seed, scores(seed))
    with pytest.raises(DataError, match=r"'backbone' means two things.*NAME=PATH"):
        collect([study.path for study in studies])


def test_collect__refuses_unfinished_runs_unless_asked(study):
    _, folder = study.add_run(initialisation="random", method="linear_probe", fraction=0.1, seed=7)
    run = RunFolder.create(folder, {}, {})
    with pytest.raises(RunError, match=r"1 of 5 runs have not finished.*seed7"):
        collect([study.path])
    assert len(collect([study.path], allow_unfinished=True).runs) == 4
    run.write_predictions(scores())
    found = collect([study.path], allow_unfinished=True)
    assert len(found.runs) == 5
    assert "had not finished" in found.notes[0]


def test_collect__refuses_runs_that_are_equal_to_the_last_bit(study):
    add_run(study, "random", 0.1, 5, scores())
    add_run(study, "random", 0.1, 6, scores())
    with pytest.raises(DataError, match="predict the same to the last bit"):
        collect([study.path])


def test_collect__counts_copies_once_if_asked_and_says_so(study):
    for seed in (5, 6, 7):
        add_run(study, "random", 1.0, seed, scores())
    found = collect([study.path], count_copies_once=True)
    assert len([run for run in found.runs if run.entry.fraction == 1.0]) == 1
    assert found.notes[0].startswith("3 runs of random at 100 % of the labels predict the same")


def test_collect__refuses_copies_between_arms_even_if_asked(study):
    add_run(study, "random", 0.1, 5, scores())
    add_run(study, "SimCLR", 0.1, 5, scores())
    with pytest.raises(DataError, match="to the last bit"):
        collect([study.path], count_copies_once=True)


def test_collect__refuses_equal_seeds(study, tmp_path):
    first = make_study(tmp_path / "again", arms=ARMS, fractions=(0.1,), seeds=1, images=60)
    with pytest.raises(DataError, match="with seed 0; repetitions need different seeds"):
        collect([study.path, first.path])


def test_collect__refuses_runs_on_other_test_images(study):
    add_run(study, "random", 0.1, 9, scores(images=58))
    with pytest.raises(DataError, match="different images or targets"):
        collect([study.path])


def trained_on(study, arm, seed, digest):
    run = add_run(study, arm, 1.0, seed, scores(seed + (10 if arm == "random" else 20)))
    run.finish({"epoch_choice": "last", "train_images_sha256": digest})


def test_collect__refuses_arms_that_learnt_from_other_images(study):
    trained_on(study, "random", 0, "aa")
    trained_on(study, "SimCLR", 0, "aa")
    trained_on(study, "random", 1, "bb")  # another seed draws another subset
    notes = collect([study.path]).notes
    assert any(note.startswith("4 of 7 runs do not state which images") for note in notes)
    trained_on(study, "SimCLR", 1, "cc")
    with pytest.raises(DataError, match=r"random.*seed1 and SimCLR.*seed1 learnt from different"):
        collect([study.path])


def test_collect__takes_single_runs(tmp_path):
    for seed in (0, 1):
        config = {"initialisation": "mine", "method": "fine_tune", "fraction": 0.5, "seed": seed}
        run = RunFolder.create(tmp_path / f"r{seed}", config, {})
        run.write_predictions(scores(seed))
        run.finish({})
    found = collect([tmp_path / "r0", tmp_path / "r1"])
    assert [(r.arm, r.entry.fraction, r.entry.seed) for r in found.runs] == [
        ("mine", 0.5, 0),
        ("mine", 0.5, 1),
    ]


def test_collect__without_runs_names_the_folder(tmp_path):
    with pytest.raises(RunError, match="no run here"):
        collect([tmp_path / "empty"])
