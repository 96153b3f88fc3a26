import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, balanced_accuracy_score, brier_score_loss
from tests.results.synthetic import make_study

from scoutview.results.collect import collect
from scoutview.results.scores import SHOWN, mean_scores, run_scores, score_display

ARMS = {"random": ("random", "", (1.0, 1.5))}


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores")
    study = make_study(folder, arms=ARMS, fractions=(0.1, 1.0), seeds=3, images=60)
    return collect([study.path])


def test_scores__are_those_of_sklearn_and_of_the_t_interval(collection):
    of_runs = run_scores(collection.runs, replicates=20)
    assert len(of_runs) == 6 * len(SHOWN)
    means = mean_scores(of_runs).set_index(["fraction", "metric"])
    tests = [r.test for r in collection.runs if r.entry.fraction == 0.1]
    for metric, score in (
        ("average_precision", average_precision_score),
        ("brier", brier_score_loss),
        ("balanced_accuracy", lambda y, p: balanced_accuracy_score(y, p >= 0.5)),
    ):
        values = [score(t["target"], t["score"]) for t in tests]
        row = means.loc[(0.1, metric)]
        assert row["value"] == pytest.approx(np.mean(values))
        low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
        assert (row["low"], row["high"]) == pytest.approx((low, high))
    shown = score_display(means.reset_index())
    assert [row[:2] for row in shown.rows] == [("random", "10 %"), ("random", "100 %")]


def test_scores__have_no_interval_beyond_0_and_1(collection):
    of_runs = run_scores(collection.runs[:2], replicates=5)
    of_runs["value"] = [0.5 if seed == 0 else 0.99 for seed in of_runs["seed"]]
    means = mean_scores(of_runs)
    assert means["low"].min() == 0
    assert means["high"].max() == 1


def test_scores__of_one_seed_keep_the_interval_over_patients(collection):
    of_runs = run_scores(collection.runs[:1], replicates=20)
    means = mean_scores(of_runs)
    assert means["low"].tolist() == of_runs["low"].tolist()
    assert "bootstrap over patients, 20 replicates" in means["interval"].iloc[0]
    assert score_display(means).rows[0][2].endswith(" b)")
