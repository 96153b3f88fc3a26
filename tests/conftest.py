"""Shared by all tests."""

import io
import multiprocessing
import multiprocessing.forkserver
import sys
from pathlib import Path

import pytest
from rich.console import Console

from scoutview.base import progress

sys.path.insert(0, str(Path(__file__).parent.parent))

_PRELOAD = ["scoutview.index.scan", "scoutview.api.pretrain", "scoutview.api.transfer"]


def pytest_sessionstart(session):
    """Import once for every process that a test will start; it then comes up in milliseconds."""
    distributed = session.config.getoption("numprocesses", None)
    if not distributed or hasattr(session.config, "workerinput"):
        multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOAD)
        multiprocessing.forkserver.ensure_running()


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 120 columns is shown, as a text stream; bars are not yet switched on."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "_screen", progress._Screen())
    monkeypatch.setattr(progress, "console", lambda: console)
    return text


@pytest.fixture
def quarter_of_the_set(tmp_path, monkeypatch):
    """What PneumoniaMNIST's recipe reads: a quarter of the bundled radiographs."""
    from tests.cohorts import write_radiographs

    source = tmp_path / "quarter"
    counts = {"train": 1177, "val": 131, "test": 156}
    monkeypatch.setattr("scoutview.recipes.pneumoniamnist.files", lambda package: source)
    return write_radiographs(source / "demo_data" / "pneumoniamnist.npz", counts)
