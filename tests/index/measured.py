"""Work of an index that writes down how much memory its process has had, for processes to load."""

import os
import time
from pathlib import Path

from scoutview.index import scan as module
from scoutview.index.scan import GroupJob, ScanJob

FOLDER = "SCOUTVIEW_TEST_PEAKS"
"""Environment variable: where the peaks are written, one file per process, in kilobytes."""
WORKERS = "SCOUTVIEW_TEST_WORKERS"
"""Environment variable: processes that all take a part of the files."""


def scan(job: ScanJob) -> int:
    done = module.scan(job)
    _write_peak()
    _wait_for_the_others()
    return done


def group(job: GroupJob) -> Path:
    done = module.group(job)
    _write_peak()
    return done


def _wait_for_the_others() -> None:
    """Leave the next files to processes that have had none; a fast one could take them all."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if len(os.listdir(os.environ[FOLDER])) >= int(os.environ[WORKERS]):
            return
        time.sleep(0.01)


def _write_peak() -> None:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    (Path(os.environ[FOLDER]) / str(os.getpid())).write_text(peak.split()[1])
