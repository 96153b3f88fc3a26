import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pandas as pd
import pytest
from tests.index.dicoms import write_series

from scoutview.base.errors import RunError
from scoutview.base.lock import alone
from scoutview.index import build as build_module
from scoutview.index.build import BUILDING, build_cohort
from scoutview.index.config import IndexConfig
from scoutview.index.scan import scan
from scoutview.index.workers import Workers


def scan_with_a_bomb(job):
    """Read headers; a file named bomb ends the process as a crash in a decoder does."""
    if not job.crashes and any(file.path.endswith("bomb") for file in job.files):
        os.kill(os.getpid(), signal.SIGKILL)
    return scan(job)


@dataclass(frozen=True)
class Whole:
    """A job that cannot be divided; negative ones end their process."""

    number: int

    def halves(self):
        return []


def double(job):
    if job.number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * job.number, os.getpid()


def test_workers__few_jobs_stay_in_this_process():
    with Workers(2, patience=60) as workers:
        done = list(workers.map(double, [Whole(n) for n in range(5)]))
    assert done == [(2 * n, os.getpid()) for n in range(5)]


@pytest.mark.ddp
def test_workers__a_job_that_cannot_be_divided_is_an_error_and_others_are_not_lost():
    done = []
    with Workers(2, patience=0) as workers, pytest.raises(RunError, match="died twice"):
        done += workers.map(double, map(Whole, (1, 2, -1)))
    with Workers(2, patience=0) as workers:
        done = list(workers.map(double, map(Whole, range(9))))
    assert sorted(number for number, _ in done) == [2 * n for n in range(9)]
    assert os.getpid() not in {pid for _, pid in done}


@pytest.mark.ddp
def test_build__a_file_that_ends_its_process_becomes_a_problem(tmp_path, monkeypatch):
    write_series(tmp_path / "s" / "a", 1, 4)
    write_series(tmp_path / "s" / "b", 2, 3)
    (tmp_path / "s" / "a" / "bomb").write_bytes(b"boom")
    monkeypatch.setattr(build_module, "scan", scan_with_a_bomb)
    monkeypatch.setattr(build_module, "START_SECONDS", 0.0)
    monkeypatch.setattr(build_module, "_CHUNK", 5)
    cohort = build_cohort([tmp_path / "s"], tmp_path / "c", IndexConfig(workers=2))
    assert sorted(cohort.table["n_slices"]) == [3, 4]
    found = pd.read_csv(cohort.folder / "problems.csv")
    assert list(found["reason"]) == ["damaged"]
    assert "ended the process" in found["detail"][0]
    private = pd.read_parquet(cohort.folder / "private.parquet").set_index("file_id")
    assert private.loc[found["file_id"][0], "path"].endswith("bomb")
    # Known by its signature like any other file: the next build does not meet it again.
    again = build_cohort([tmp_path / "s"], tmp_path / "c", IndexConfig(workers=2))
    assert again.content == cohort.content


_HOLD = """
import sys
from pathlib import Path
from scoutview.base.lock import alone
with alone(Path(sys.argv[1]), "index build"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_build__two_at_once_in_one_folder_are_refused_until_the_first_is_dead(tmp_path):
    write_series(tmp_path / "s", 1, 3)
    work = tmp_path / "c" / BUILDING
    work.mkdir(parents=True)
    command = [sys.executable, "-c", _HOLD, str(work)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="Another index build"):
            build_cohort([tmp_path / "s"], tmp_path / "c", IndexConfig(workers=1))
    finally:
        holder.kill()
        holder.communicate()
    assert len(build_cohort([tmp_path / "s"], tmp_path / "c", IndexConfig(workers=1))) == 1


def test_alone__a_folder_that_its_holder_removed_is_not_held(tmp_path):
    with (
        pytest.raises(RunError, match="wait until it has ended"),
        alone(tmp_path / "gone", "index build"),
    ):
        pass
    with alone(tmp_path, "index build"):
        with pytest.raises(RunError), alone(tmp_path, "index build"):
            pass
        (tmp_path / ".lock").unlink()
    with alone(tmp_path, "index build"):
        assert (tmp_path / ".lock").exists()
