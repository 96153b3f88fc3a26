"""The fields of every schema, as of each version. A changed field needs a new version here."""

import json
from pathlib import Path

import pytest

from scoutview.base.errors import RunError
from scoutview.results.run import EMBEDDING_COLUMNS, METRIC_KEYS, PREDICTION_COLUMNS, RunFolder
from scoutview.results.schema import VERSIONS, upgraded
from scoutview.results.study import Initialisation, Study, StudyCall, StudyContent, StudyRun

FIELDS = {
    ("run", 1): ["content", "schema", "schema_version"],
    ("environment", 1): ["content", "schema", "schema_version"],
    ("summary", 1): ["content", "schema", "schema_version"],
    ("metrics", 1): ["step", "epoch", "samples_seen", "time_s"],
    ("predictions", 1): {
        "image_id": "string",
        "patient_id": "string",
        "split": "string",
        "fold": "int64",
        "label": "string",
        "target": "float64",
        "score": "float64",
    },
    ("embeddings", 1): {
        "image_id": "string",
        "patient_id": "string",
        "split": "string",
        "embedding": "list<float>",
    },
    ("study", 2): [
        ["task", "cohort", "images", "title", "initialisations", "runs", "calls", "details"],
        ["name", "kind", "method", "run", "file", "weights"],
        ["path", "initialisation", "method", "fraction", "seed", "fold"],
        ["initialisations", "settings"],
    ],
}


def present(schema, folder):
    models = [list(m.model_fields) for m in (StudyContent, Initialisation, StudyRun, StudyCall)]
    tables = {
        "metrics": list(METRIC_KEYS),
        "predictions": PREDICTION_COLUMNS,
        "embeddings": EMBEDDING_COLUMNS,
        "study": models,
    }
    if schema in tables:
        return tables[schema]
    run = RunFolder.create(folder / "run", {}, {})
    run.finish({})
    file = {"run": "config.json"}.get(schema, f"{schema}.json")
    return sorted(json.loads((run.path / file).read_text()))


@pytest.mark.parametrize("schema", VERSIONS)
def test_schema__fields_change_only_with_the_version(schema, tmp_path):
    known = (schema, VERSIONS[schema])
    assert known in FIELDS, f"Write down the fields of {known} and an upgrade from the one before."
    assert present(schema, tmp_path) == FIELDS[known], f"{schema} changed: raise its version."


ASSETS = Path(__file__).parent / "schemas"


def test_study__of_version_1_is_read():
    study = Study.open(ASSETS / "study_v1")
    assert [run.seed for run in study.content.runs] == [0]
    assert study.initialisation("random").kind == "random"
    _, run = next(study.runs())
    assert run.config == {"seed": 0}
    assert run.environment == {"python": "3.11.9"}
    assert run.summary() == {"epoch_choice": "last"}
    assert run.metrics()["loss"].tolist() == [0.5]
    assert run.predictions()["score"].tolist() == [0.25, 0.75]


def test_upgraded__goes_through_every_version():
    steps = {("study", 1): lambda c: {**c, "b": 2}, ("study", 2): lambda c: {**c, "c": c["b"] + 1}}
    result = upgraded({"a": 1}, "study", 1, "x", upgrades=steps, versions={"study": 3})
    assert result == {"a": 1, "b": 2, "c": 3}


def test_upgraded__without_a_step_says_what_to_do():
    with pytest.raises(RunError, match="study version 1 cannot be read"):
        upgraded({}, "study", 1, "x", upgrades={}, versions={"study": 2})
