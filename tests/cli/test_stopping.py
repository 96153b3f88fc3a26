"""Signals through the real command: what is stopped says how to go on, and does."""

import importlib.resources
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.cohorts import TINY, radiograph_cohort
from tests.command_line import scoutview

from scoutview.results.run import RunFolder

STEPS = 120


def stop_after(lines, number, command, run):
    """Start a command, send it a signal when `lines` lines of metrics stand; its message."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = run / "metrics.jsonl"
    limit = time.monotonic() + 200
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit, "training never began"
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pretrain__stopped_twice_finishes_with_resume(tmp_path):
    cohort = radiograph_cohort(tmp_path / "data", {"train": 48, "val": 16, "test": 16})
    run = tmp_path / "run"
    command = [sys.executable, "-m", "scoutview", "pretrain"]
    words = ["--method", "simclr", "--out", run, "--samples", STEPS * 16, "--batch-size", 16]
    words += ["--set=log_every=1", "--set=probe_every=null", f"--set=backbone.name={TINY.name}"]
    words += [f"--set=backbone.stage_widths={list(TINY.stage_widths)}"]
    words += [f"--set=backbone.stage_depths={list(TINY.stage_depths)}"]
    said = stop_after(3, signal.SIGINT, [*command, str(cohort), *map(str, words)], run)
    assert "stopped by SIGINT" in said
    assert "--resume" in said
    before = len(RunFolder.open(run).metrics())
    said = stop_after(before + 3, signal.SIGTERM, [*command, "--resume", str(run)], run)
    assert "stopped by SIGTERM" in said
    assert scoutview("pretrain", "--resume", run) == 0
    finished = RunFolder.open(run)
    assert finished.finished
    assert finished.metrics()["step"].tolist() == list(range(1, STEPS + 1))
    assert finished.backbone.is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no process groups")
def test_store__ctrl_c_ends_with_one_line(tmp_path):
    scan = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(scan) as path:
        assert scoutview("index", path, "--out", tmp_path / "large") == 0
    words = [sys.executable, "-m", "scoutview", "store", str(tmp_path / "large"), "--workers", "2"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    shards = tmp_path / "large" / "store" / "shards"
    limit = time.monotonic() + 100
    while not shards.is_dir():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1] == "scoutview: stopped."
