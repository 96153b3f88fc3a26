import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from tests.results.synthetic import ARMS, add_run, make_study, simulated

from scoutview.base.errors import DataError
from scoutview.base.randomness import BOOTSTRAP, generator
from scoutview.results import wording
from scoutview.results.collect import ComparedRun, collect
from scoutview.results.display import headline_table
from scoutview.results.pairs import delong_difference
from scoutview.results.run import RunFolder
from scoutview.results.scoring import ScoredRun
from scoutview.results.study import StudyRun
from scoutview.results.tables import compare_tables
from scoutview.stats.comparison import paired_bootstrap
from scoutview.stats.delong import paired_delong
from scoutview.stats.ranking import Ranking


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return collect([make_study(tmp_path_factory.mktemp("s"), images=200).path])


@pytest.fixture(scope="module")
def tables(collection):
    return compare_tables(collection, replicates=60)


def aucs(collection, arm, fraction):
    """By scikit-learn, seed by seed."""
    runs = [r for r in collection.runs if (r.arm, r.entry.fraction) == (arm, fraction)]
    return [roc_auc_score(r.test["target"], r.test["score"]) for r in runs]


def test_cell__is_the_mean_with_the_t_interval_of_scipy(collection, tables):
    values = aucs(collection, "SimCLR", 0.1)
    cell = tables.cell("SimCLR", 0.1)
    assert cell.scores == pytest.approx(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (cell.over_seeds.low, cell.over_seeds.high) == pytest.approx((low, high))


def test_cell__bootstrap_is_the_mean_over_seeds_on_redrawn_patients(collection, tables):
    runs = [r for r in collection.runs if (r.arm, r.entry.fraction) == ("random", 0.01)]
    tests = [run.test for run in runs]
    patients = tests[0]["patient_id"]
    names, inverse = np.unique(patients, return_inverse=True)
    drawn = []
    for replicate in range(60):
        chosen = generator(0, BOOTSTRAP, replicate).integers(0, len(names), len(names))
        rows = np.concatenate([np.flatnonzero(inverse == patient) for patient in chosen])
        drawn.append(
            np.mean(
                [
                    roc_auc_score(r.test["target"].iloc[rows], r.test["score"].iloc[rows])
                    for r in runs
                ]
            )
        )
    cell = tables.cell("random", 0.01)
    assert (cell.over_patients.low, cell.over_patients.high) == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975]))
    )


def test_pair__t_is_that_of_scipy_over_shared_seeds(collection, tables):
    a, b = aucs(collection, "SimCLR", 0.1), aucs(collection, "random", 0.1)
    pair = tables.pair("SimCLR", "random", 0.1)
    assert pair.t.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert pair.test.difference == pytest.approx(np.mean(a) - np.mean(b))


def test_pair__holm_counts_pretrained_arms_against_the_reference_alone(tables):
    a = tables.pair("SimCLR", "random", 0.1)
    b = tables.pair("Barlow Twins", "random", 0.1)
    assert a.family == b.family == "pre-trained against random"
    smaller, larger = sorted([a, b], key=lambda pair: pair.t.p)
    assert smaller.p_holm == pytest.approx(min(1, 2 * smaller.t.p))
    assert larger.p_holm == pytest.approx(max(min(1, 2 * smaller.t.p), larger.t.p))
    others = [p for p in tables.pairs if p.fraction == 0.1 and p.family == "all other pairs"]
    assert len(others) == 10 - 2


def test_pair__seen_from_the_other_side_is_negated(tables):
    pair, turned = tables.pair("SimCLR", "random", 0.1), tables.pair("random", "SimCLR", 0.1)
    assert turned.t.difference == -pair.t.difference
    assert (turned.delong.low, turned.delong.high) == (-pair.delong.high, -pair.delong.low)
    assert {pair.verdict, turned.verdict} == {"better", "worse"}


def test_pair__delong_of_one_seed_is_the_paired_delong(tmp_path):
    study = make_study(tmp_path, fractions=(0.1,), seeds=1, images=80)
    collection = collect([study.path])
    tables = compare_tables(collection, replicates=20)
    a, b = (next(r.test for r in collection.runs if r.arm == n) for n in ("SimCLR", "random"))
    expected = paired_delong(a["target"], a["score"], b["score"], a["patient_id"])
    pair = tables.pair("SimCLR", "random", 0.1)
    assert pair.delong.p == pytest.approx(expected.p, rel=1e-9)
    assert (pair.delong.low, pair.delong.high) == pytest.approx((expected.low, expected.high))


def test_pair__bootstrap_is_the_paired_bootstrap_of_the_means_over_seeds(collection, tables):
    def mean_auc(arm):
        runs = [r for r in collection.runs if (r.arm, r.entry.fraction) == (arm, 0.1)]
        rankings = [Ranking.of(r.test["target"], r.test["score"]) for r in runs]
        return lambda weights: float(np.mean([r.auc(weights) for r in rankings]))

    patients = collection.runs[0].test["patient_id"]
    expected = paired_bootstrap(mean_auc("SimCLR"), mean_auc("random"), patients, replicates=60)
    found = tables.pair("SimCLR", "random", 0.1).bootstrap
    for name in ("difference", "low", "high", "p"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)
    assert found.n == patients.nunique()


def test_pair__with_one_seed_is_decided_by_the_bootstrap(tmp_path):
    study = make_study(tmp_path, fractions=(0.1,), seeds=1, images=80)
    tables = compare_tables(collect([study.path]), replicates=100)
    pair = tables.pair("SimCLR", "random", 0.1)
    assert math.isnan(pair.t.p)
    assert pair.primary == "bootstrap"
    assert any("One seed only" in note for note in tables.notes)


def test_delong_of_the_mean__covers_and_tests_at_its_level():
    """Two equally good models: the mean over seeds differs at 5 % in about 5 % of studies."""
    rng = np.random.default_rng(3)
    entry = StudyRun(path="r", initialisation="a", method="m", fraction=1.0, seed=0)

    def arm(targets, shared):
        own = rng.standard_normal(len(targets))
        runs = []
        for _ in range(3):
            table = simulated(targets, 1.2, rng, shared)
            # Models of one arm share errors beyond those that all models share.
            table["score"] = 1 / (
                1 + np.exp(-(np.log(table["score"] / (1 - table["score"])) + own))
            )
            run = ComparedRun("a", entry, None, table.assign(patient_id=table["image_id"]), {})
            runs.append(ScoredRun(run, 0.0, np.zeros(1), ()))
        return runs

    rejected = 0
    for _ in range(120):
        targets = (rng.random(100) < 0.5).astype(int)
        shared = rng.standard_normal(100)
        test = delong_difference(arm(targets, shared), arm(targets, shared), ("pneumonia",))
        rejected += test.p < 0.05
    assert 1 <= rejected <= 15  # 6 expected, at most 4 standard deviations away


def test_best__is_chosen_on_validation_where_it_was_predicted(tables):
    assert (tables.best, tables.best_by) == ("SimCLR", "validation")
    assert tables.headline_fraction == 0.1
    assert tables.reference == "random"


def test_notes__say_what_limits_the_comparison(tables):
    text = " ".join(tables.notes)
    assert "Wilcoxon's signed-rank test cannot reach p < .05" in text
    assert "Scores are those of the last epoch." in text
    assert "patient ids" not in text  # the simulated patients have two images each


def test_intervals__of_two_differing_seeds_stay_within_what_an_auc_can_be(tmp_path):
    study = make_study(tmp_path, arms={}, images=10)
    study.add_initialisation("random", "random")
    study.add_initialisation("net", "file")
    rng = np.random.default_rng(2)
    targets = np.repeat([0, 1], 20)
    for arm, qualities in (("random", (0.0, 4.0)), ("net", (4.0, 0.0))):
        for seed, quality in enumerate(qualities):
            table = simulated(targets, quality, rng, rng.standard_normal(40))
            add_run(study, arm, 0.1, seed, table)
    tables = compare_tables(collect([study.path]), replicates=10)
    over = tables.cell("net", 0.1).over_seeds
    low, high = stats.t.interval(0.95, 1, over.value, stats.sem(tables.cell("net", 0.1).scores))
    assert low < 0 < 1 < high, "this is what would have been printed"
    assert (over.low, over.high) == (0, 1)
    assert (tables.pairs[0].t.low, tables.pairs[0].t.high) == (-1, 1)
    assert any("are cut there" in note for note in tables.notes)


def test_notes__say_which_weights_no_seed_varies(tables):
    (note,) = [note for note in tables.notes if note.startswith("Seeds vary")]
    assert "SimCLR and Barlow Twins are one pre-training each;" in note
    assert "random is one draw of random weights;" in note
    assert "supervised is drawn and trained anew at each seed." in note
    assert "Another pre-training or draw may change a verdict." in note
    assert "raw pixels" not in note


def test_notes__do_not_call_repeated_trainings_and_draws_one(tmp_path):
    """Two studies, each with a pre-training and a random network of its own."""
    studies = []
    rng = np.random.default_rng(5)
    targets = np.repeat([0, 1], 20)
    for seed in range(2):
        study = make_study(tmp_path / str(seed), arms={}, images=10)
        pre = RunFolder.create(tmp_path / f"net{seed}", {}, {}).path
        study.add_initialisation("net", "run", method="net", run=pre, weights=f"{seed}" * 64)
        study.add_initialisation("random", "random")
        for arm in ("net", "random"):
            _, folder = study.add_run(
                initialisation=arm, method="linear_probe", fraction=0.1, seed=seed
            )
            run = RunFolder.create(folder, {"transfer": {"backbone_seed": seed}}, {})
            run.write_predictions(simulated(targets, 1.0, rng, rng.standard_normal(40)))
            run.finish({"epoch_choice": "none"})
        studies.append(study.path)
    alone = compare_tables(collect(studies[:1]), replicates=5)
    assert any("net is one pre-training; random is one draw" in note for note in alone.notes)
    both = compare_tables(collect(studies), replicates=5)
    assert not any(note.startswith("Seeds vary") for note in both.notes)


def test_notes__without_patient_ids_warn_of_narrow_intervals(collection):
    tables = compare_tables(collection, patient_ids_known=False, replicates=10)
    assert any("no patient ids" in note for note in tables.notes)
    assert tables.test_patients is None


@pytest.fixture(scope="module")
def two_labels(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("m"), arms={}, images=10)
    rng = np.random.default_rng(1)
    targets = (rng.random(80) < 0.4).astype(int)
    shared = rng.standard_normal(80)
    for arm, quality in (("random", 0.5), ("net", 2.0)):
        study.add_initialisation(arm, "random" if arm == "random" else "file")
        for seed in range(3):
            table = simulated(targets, quality, rng, shared, labels=("a", "b", "c"))
            table.loc[table["label"] == "c", "target"] = 1.0
            table.loc[(table["label"] == "b") & (table.index % 7 == 0), "target"] = np.nan
            add_run(study, arm, 0.1, seed, table)
    return collect([study.path])


def test_macro__leaves_out_labels_with_one_class_and_missing_targets(two_labels):
    tables = compare_tables(two_labels, replicates=50)
    assert tables.labels == ("a", "b")
    assert any("'c' has one class" in note and "no negative row" in note for note in tables.notes)
    run = next(r for r in two_labels.runs if r.arm == "net")
    expected = []
    for label in ("a", "b"):
        part = run.test[(run.test["label"] == label) & run.test["target"].notna()]
        expected.append(roc_auc_score(part["target"], part["score"]))
    assert tables.cell("net", 0.1).scores[0] == pytest.approx(np.mean(expected))


def test_macro__has_no_delong_and_says_why(two_labels):
    pair = compare_tables(two_labels, replicates=50).pair("net", "random", 0.1)
    assert math.isnan(pair.delong.p)
    assert "one label" in pair.delong.note
    assert not math.isnan(pair.bootstrap.p)


def test_tables__without_a_usable_label_are_refused(tmp_path):
    study = make_study(tmp_path, arms={}, images=10)
    study.add_initialisation("random", "random")
    rng = np.random.default_rng(0)
    add_run(study, "random", 0.1, 0, simulated(np.ones(20), 1.0, rng, rng.standard_normal(20)))
    with pytest.raises(DataError, match="No label has positive and negative"):
        compare_tables(collect([study.path]), replicates=10)


def test_tidy_tables__have_one_row_per_cell_pair_and_run(tables, collection):
    assert len(tables.summary()) == len(ARMS) * 3
    assert len(tables.comparisons()) == 3 * 10
    assert len(tables.runs) == len(collection.runs)
    row = tables.runs.iloc[0]
    assert row["delong_low"] < row["auc"] < row["delong_high"]


def test_headline__states_result_interval_and_test(tables):
    text = wording.headline(tables)
    cell, pair = tables.cell("SimCLR", 0.1), tables.pair("SimCLR", "random", 0.1)
    assert text.startswith(
        f"With 10 % of the labels, SimCLR reaches a test AUC of {cell.over_seeds.value:.3f}"
    )
    assert f"{pair.t.difference:.3f} above random" in text
    assert "paired t-test over 5 seeds, Holm" in text


def test_findings__say_that_an_arm_is_not_shown_to_beat_random(tmp_path):
    arms = {
        "SimCLR": ("run", "simclr", (2.0,)),
        "BYOL": ("run", "byol", (1.0,)),
        "random": ("random", "", (1.0,)),
    }
    study = make_study(tmp_path, arms=arms, fractions=(0.1,), images=200)
    collection = collect([study.path])
    tables = compare_tables(collection, replicates=50)
    assert any(
        text.startswith("BYOL is not shown to beat random:")
        for text in wording.findings(collection, tables)
    )


def test_headline__of_a_best_arm_no_better_than_random_says_so(tmp_path):
    arms = {"BYOL": ("run", "byol", (1.0,)), "random": ("random", "", (1.0,))}
    study = make_study(tmp_path, arms=arms, fractions=(0.1,), images=200)
    tables = compare_tables(collect([study.path]), replicates=50)
    assert "it is not shown to beat random" in wording.headline(tables)
    assert headline_table(tables).rows[0][-1] in ("not shown", "reference")


def test_headline__of_a_best_arm_below_random_says_so(tmp_path):
    """Only a test that says so makes it a verdict against the method."""
    arms = {
        "BYOL": ("run", "byol", (1.0,)),
        "MoCo": ("run", "moco", (0.2,)),
        "random": ("random", "", (2.5,)),
    }
    collection = collect([make_study(tmp_path, arms=arms, fractions=(0.1,), images=200).path])
    tables = compare_tables(collection, replicates=50)
    difference = -tables.pair("BYOL", "random", 0.1).t.difference
    assert f": {difference:.3f} below random (95 %" in wording.headline(tables)
    assert any(t.startswith("MoCo is below random:") for t in wording.findings(collection, tables))
    assert [row[-1] for row in headline_table(tables).rows] == ["reference"] + ["no: below"] * 2


def test_folds__are_averaged_within_a_seed(tmp_path):
    study = make_study(tmp_path, arms={}, images=10)
    study.add_initialisation("random", "random")
    rng = np.random.default_rng(0)
    expected = []
    for fold in range(3):
        table = simulated((rng.random(40) < 0.5).astype(int), 1.0, rng, rng.standard_normal(40))
        table = table.assign(
            fold=fold,
            image_id=f"f{fold}" + table["image_id"],
            patient_id=f"f{fold}" + table["patient_id"],
        )

        _, folder = study.add_run(
            initialisation="random", method="linear_probe", fraction=0.1, seed=0, fold=fold
        )
        run = RunFolder.create(folder, {}, {})
        run.write_predictions(table)
        run.finish({"epoch_choice": "last"})
        expected.append(roc_auc_score(table["target"], table["score"]))
    tables = compare_tables(collect([study.path]), replicates=20)
    cell = tables.cell("random", 0.1)
    assert cell.over_seeds.value == pytest.approx(np.mean(expected))
    low, high = stats.t.interval(0.95, 2, np.mean(expected), stats.sem(expected))
    assert (cell.over_seeds.low, cell.over_seeds.high) == pytest.approx((low, high))
    assert any("folds are too narrow" in note for note in tables.notes)


@pytest.mark.parametrize("written", ["none", "validation"])
def test_notes__a_probe_has_no_epoch_but_a_penalty_chosen_on_all_validation_labels(
    tmp_path, written
):
    study = make_study(tmp_path, arms={}, images=10)
    study.add_initialisation("random", "random")
    rng = np.random.default_rng(0)
    table = simulated((rng.random(40) < 0.5).astype(int), 1.0, rng, rng.standard_normal(40))
    _, folder = study.add_run(initialisation="random", method="linear_probe", fraction=0.01, seed=0)
    run = RunFolder.create(folder, {"images": {"train": 47, "val": 524, "test": 40}}, {})
    run.write_predictions(table)
    run.finish({"epoch_choice": written, "chosen_by": "l2 = 1, by validation AUC", "l2": 1.0})
    tables = compare_tables(collect([study.path]), replicates=10)
    text = " ".join(tables.notes)
    assert "epoch chosen on validation" not in text
    assert "At 1 % of the labels (47 images), 40 test" in headline_table(tables).caption
    assert wording.headline(tables).startswith("With 1 % of the labels (47 images), random")
    assert "Linear classifiers are solved to their optimum: no epoch to choose." in text
    assert "The penalty is chosen on 524 labelled validation images whatever the label" in text
    assert "training on 1 % of the labels uses more labels" in text
    assert tables.runs["epoch_choice"].tolist() == ["none"]
