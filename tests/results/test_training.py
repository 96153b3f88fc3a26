import pandas as pd

from scoutview.results.display import MISSING
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


def test_convergence_table__shows_no_epoch_of_fewer_than_three_measurements():
    few, many = metrics([0.9, 0.91]).assign(epoch=[5.0, 10.0]), metrics([0.1, 0.2, 0.3])
    _, found = convergence({"few": few, "many": many})
    table = convergence_table("knn_auc", found)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["few"][1:3] == ("not shown: 2 measured", "2, every 5 epochs")
    assert set(rows["few"][3:]) == {MISSING}
    assert rows["many"][1:3] == ("3 of 3", "3, every epoch")
    assert "Fewer than 3 measurements" in table.caption
    _, alone = convergence({"few": few})
    assert "Speed-up" not in convergence_table("knn_auc", alone).caption
