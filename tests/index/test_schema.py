import pyarrow as pa
import pytest

from scoutview.base.errors import RunError
from scoutview.index import schema

KNOWN = {1: "63437a1760f2ce4f"}
"""One digest per version ever written. Never edit a line: add one with the next version."""


def test_schema__changes_only_with_its_version():
    assert schema.digest() == KNOWN[schema.VERSION], (
        "A column of a cohort table changed: raise schema.VERSION, add an upgrade, and add a line."
    )
    assert max(KNOWN) == schema.VERSION


def test_digest__sees_a_changed_type(monkeypatch):
    before = schema.digest()
    changed = schema.REPORTS.set(1, pa.field("text", pa.large_string()))
    monkeypatch.setitem(schema.TABLES, "reports", changed)
    assert schema.digest() != before


def test_upgraded__applies_every_step_in_order(monkeypatch):
    monkeypatch.setattr(schema, "VERSION", 3)
    monkeypatch.setattr(
        schema,
        "UPGRADES",
        {
            1: lambda table: table.rename_columns(["b"]),
            2: lambda table: table.append_column("c", pa.array([7] * len(table))),
        },
    )
    assert schema.upgraded(pa.table({"a": [1]}), 1).to_pylist() == [{"b": 1, "c": 7}]
    assert schema.upgraded(pa.table({"b": [1]}), 2).to_pylist() == [{"b": 1, "c": 7}]


def test_upgraded__refuses_a_version_without_a_step(monkeypatch):
    monkeypatch.setattr(schema, "VERSION", 2)
    with pytest.raises(RunError, match="no longer reads"):
        schema.upgraded(pa.table({"a": [1]}), 1)
