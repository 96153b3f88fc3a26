import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from scoutview.base.errors import DataError, RunError
from scoutview.results.run import RunFolder, read_embeddings

LINE = {"step": 0, "epoch": 0, "samples_seen": 8, "time_s": 0.5}


def predictions(n=4):
    return pd.DataFrame(
        {
            "image_id": [f"{i:016x}" for i in range(n)],
            "patient_id": [f"{i // 2:016x}" for i in range(n)],
            "split": "test",
            "fold": -1,
            "label": "pneumonia",
            "target": [0.0, 1.0, math.nan, 1.0][:n],
            "score": np.linspace(0.1, 0.9, n),
        }
    )


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"seed": 3, "views": {"size": 28}}, {"python": "3"})


def test_create__keeps_what_it_was_given(run):
    opened = RunFolder.open(run.path)
    assert opened.config == {"seed": 3, "views": {"size": 28}}
    assert opened.environment == {"python": "3"}
    assert opened.checkpoints.is_dir()
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints",
        "config.json",
        "environment.json",
    ]
    assert [p.name for p in run.path.parent.iterdir()] == ["run"]


def test_create__in_a_folder_with_content_names_it(run):
    with pytest.raises(RunError, match=r"run is not empty"):
        RunFolder.create(run.path, {}, {})


def test_create__works_after_a_killed_start(tmp_path):
    (tmp_path / ".run.new").mkdir()
    (tmp_path / ".run.new" / "environment.json").write_text("{")
    assert RunFolder.create(tmp_path / "run", {"a": 1}, {}).config == {"a": 1}
    assert not (tmp_path / ".run.new").exists()


def test_open__without_a_run_names_the_folder(tmp_path):
    with pytest.raises(RunError, match="no run here"):
        RunFolder.open(tmp_path / "nothing")


def test_open__refuses_a_newer_schema(run):
    path = run.path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(RunError, match="newer"):
        RunFolder.open(run.path)


def test_status__is_finished_only_after_finish(run):
    assert run.status == "unfinished"
    with pytest.raises(RunError, match="not finished"):
        run.summary()
    run.finish({"epoch_choice": "last", "samples_seen": 100})
    assert run.finished
    assert run.summary() == {"epoch_choice": "last", "samples_seen": 100}


def test_metrics__are_read_in_order_and_nan_becomes_missing(run):
    run.append_metrics({**LINE, "loss": np.float32(0.5)})
    run.append_metrics({**LINE, "step": 1, "loss": math.nan})
    table = run.metrics()
    assert table["step"].tolist() == [0, 1]
    assert table["loss"].iloc[0] == 0.5
    assert np.isnan(table["loss"].iloc[1])


def test_metrics__empty_has_the_fixed_columns(run):
    assert list(run.metrics().columns) == ["step", "epoch", "samples_seen", "time_s"]


def test_append_metrics__needs_its_keys(run):
    with pytest.raises(DataError, match="samples_seen"):
        run.append_metrics({"step": 0, "epoch": 0, "time_s": 1.0})


def test_resume__drops_later_lines_and_a_torn_one(run):
    for step in range(4):
        run.append_metrics({**LINE, "step": step})
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "ep')
    (run.path / ".config.json.12345678.partial").write_text("half")
    assert run.metrics()["step"].tolist() == [0, 1, 2, 3]
    resumed = RunFolder.resume(run.path, step=2)
    resumed.append_metrics({**LINE, "step": 3})
    assert resumed.metrics()["step"].tolist() == [0, 1, 2, 3]
    assert not list(run.path.glob("*.partial")) + list(run.path.glob(".*.partial"))


def test_resume__of_a_finished_run_is_refused(run):
    run.finish({})
    with pytest.raises(RunError, match="finished"):
        RunFolder.resume(run.path, step=0)


def test_predictions__come_back_equal(run):
    run.write_predictions(predictions()[["score", *list(predictions().columns[:-1])]])
    pd.testing.assert_frame_equal(run.predictions(), predictions(), check_dtype=False)


def test_predictions__that_are_cut_short_are_named(run):
    run.write_predictions(predictions())
    path = run.path / "predictions.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunError, match=r"predictions\.parquet is damaged .*make the run again"):
        run.predictions()


def test_predictions__from_a_newer_schema_are_refused(run):
    run.write_predictions(predictions())
    path = run.path / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(
        table.replace_schema_metadata({"schema": "predictions", "schema_version": "9"}), path
    )
    with pytest.raises(RunError, match="newer"):
        run.predictions()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 1.5}, "probabilities"),
        ({"score": math.nan}, "NaN"),
        ({"target": 2.0}, "Targets must be"),
        ({"image_id": "same"}, "twice"),
        ({"surplus": 1}, "not known"),
    ],
)
def test_write_predictions__refuses_what_would_mislead(run, change, message):
    with pytest.raises(DataError, match=message):
        run.write_predictions(predictions().assign(**change))


def test_embeddings__come_back_equal(run):
    rows = predictions()[["image_id", "patient_id", "split"]]
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    run.write_embeddings(rows, features)
    found, values = read_embeddings(run.path / "embeddings.parquet")
    assert found["image_id"].tolist() == rows["image_id"].tolist()
    np.testing.assert_array_equal(values, features)


def test_write_embeddings__refuses_nan(run):
    rows = predictions()[["image_id", "patient_id", "split"]]
    with pytest.raises(DataError, match="finite"):
        run.write_embeddings(rows, np.full((4, 3), np.nan, np.float32))


def test_results__never_import_torch():
    code = (
        "import sys, pkgutil, importlib, scoutview.results as r;"
        "[importlib.import_module(f'scoutview.results.{m.name}') for m in"
        " pkgutil.iter_modules(r.__path__)]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
