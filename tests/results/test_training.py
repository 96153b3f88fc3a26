import pandas as pd

from scoutview.results.training import convergence, convergence_table, duration


def metrics(scores, key="knn_auc"):
    n = len(scores)
    return pd.DataFrame(
        {
            "step": range(n),
            "epoch": [i + 1.0 for i in range(n)],
            "samples_seen": [100 * (i + 1) for i in range(n)],
            "time_s": [2.0 * (i + 1) for i in range(n)],
            key: scores,
        }
    )


def test_convergence__is_the_earliest_epoch_at_98_percent_counted_from_1():
    fast, slow = metrics([0.5, 0.985, 0.97, 1.0]), metrics([0.1, 0.2, 0.3, 0.4])
    key, found = convergence({"fast": fast, "slow": slow})
    assert key == "knn_auc"
    assert [(c.arm, c.epoch, c.samples_seen, c.time_s) for c in found] == [
        ("fast", 2, 200, 4.0),
        ("slow", 4, 400, 8.0),
    ]
    table = convergence_table(key, found)
    assert table.rows[0][-1] == "2.0-fold"


def test_convergence__without_probes_is_empty():
    assert convergence({"net": metrics([1.0, 0.5], key="loss")}) == ("", [])


def test_duration__is_said_as_people_do():
    assert [duration(s) for s in (12, 300, 7200)] == ["12 s", "5.0 min", "2.0 h"]


def test_convergence__within_an_epoch_counts_as_that_epoch():
    half = metrics([0.5, 0.99, 1.0]).assign(epoch=[0.5, 1.5, 2.0])
    _, (found,) = convergence({"net": half})
    assert (found.epoch, found.epochs, found.samples_seen) == (2, 2, 200)
