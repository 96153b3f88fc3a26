"""Files per second from a folder of DICOM files to a cohort that can be asked, on one core.

Ours is `index.build.build_cohort` as a whole, with one process: walk, headers, series to volumes,
joins, tables. It is paired with a bare loop of `pydicom.dcmread` that keeps nothing, and with reads
of the first 8 KiB of each file. Before anything is timed, fields of our rows are compared with
pydicom's. Beside it: re-indexing unchanged files, peak memory at 2,000 and 20,000 files, whether
every broken file is listed, and processor seconds of two processes.

Run: OMP_NUM_THREADS=1 python -m benchmarks.index_build [--quick] [--out FILE]
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import pydicom
from benchmarks.pairing import finish, paired, parser
from tests.index.dicoms import write_many

from scoutview.index.build import build_cohort
from scoutview.index.config import IndexConfig

FEW, MANY, BROKEN_EVERY = 2_000, 20_000, 100
LEAST_RATE, LEAST_AGAIN, MOST_GROWTH_MB = 10_000, 100_000, 50
"""Bars: files/s, unchanged files/s, megabytes. The files have 27 elements each; longer headers cost
both sides more."""

_PEAK = """
import resource, sys
from pathlib import Path
from scoutview.index.build import build_cohort
from scoutview.index.config import IndexConfig
build_cohort([Path(sys.argv[1])], Path(sys.argv[2]), IndexConfig(workers=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def build(source: Path, out: Path) -> Any:
    shutil.rmtree(out, ignore_errors=True)
    return build_cohort([source], out, IndexConfig(workers=1))


def require_equal_fields(source: Path, out: Path) -> int:
    """Compare what the index says with pydicom; return how many files were compared."""
    build(source, out)
    rows = pd.read_parquet(out / "private.parquet")
    rows = rows[rows["status"] == "image"].iloc[::20]
    for row in rows.itertuples():
        ds = pydicom.dcmread(row.path, stop_before_pixels=True)
        said = (row.patient, row.study, row.series, row.image, row.height, row.width)
        assert said == (
            ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID,
            ds.Rows, ds.Columns,
        )  # fmt: skip
        assert [*row.position] == [*map(float, ds.ImagePositionPatient)]
        assert [*row.direction] == [*map(float, ds.ImageOrientationPatient)]
        assert (row.spacing_y, row.spacing_x) == tuple(map(float, ds.PixelSpacing))
        assert (row.slope, row.intercept) == (ds.RescaleSlope, ds.RescaleIntercept)
    return len(rows)


def peak_megabytes(source: Path, out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", _PEAK, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout.split()[-1]) * unit / 2**20


def large(source: Path, folder: Path) -> dict[str, Any]:
    """Measure one build of all files, and builds of the same files unchanged."""
    rates, again = [], []
    for _ in range(3):
        start = time.process_time()
        cohort = build(source, folder / "large")
        rates.append(MANY / (time.process_time() - start))
    for _ in range(5):
        start = time.process_time()
        build_cohort([source], folder / "large", IndexConfig(workers=1))
        again.append(MANY / (time.process_time() - start))
    listed = Counter(pd.read_csv(cohort.folder / "problems.csv")["reason"])
    return {
        f"files/s of {MANY:,} files (median of 3), bar {LEAST_RATE:,}": round(median(rates)),
        f"files/s unchanged (median of 5), bar {LEAST_AGAIN:,}": round(median(again)),
        f"broken files listed, of {MANY // BROKEN_EVERY}": dict(listed),
    }


def main() -> None:
    arguments = parser(__doc__).parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_many(folder / "few", FEW, broken_every=BROKEN_EVERY)
        write_many(folder / "many", MANY, broken_every=BROKEN_EVERY)
        compared = require_equal_fields(folder / "few", folder / "out")
        timed = FEW if arguments.quick else MANY // 4
        paths = sorted(path for path in (folder / "many").rglob("*") if path.is_file())[:timed]
        source = folder / "timed"
        for path in paths:
            place = source / path.relative_to(folder / "many")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(path)

        def ours() -> float:
            build(source, folder / "out")
            return len(paths)

        def with_pydicom() -> float:
            for path in paths[::4]:
                pydicom.dcmread(path, stop_before_pixels=True)
            return len(paths[::4])

        def raw() -> float:
            for path in paths:
                fd = os.open(path, os.O_RDONLY)
                os.read(fd, 8192)
                os.close(fd)
            return len(paths)

        extra: dict[str, Any] = {"files whose fields equal pydicom's": compared}
        extra |= large(folder / "many", folder)
        small = peak_megabytes(folder / "few", folder / "peak")
        much = peak_megabytes(folder / "many", folder / "peak")
        extra[f"peak MB at {FEW:,} and {MANY:,} files, bar +{MOST_GROWTH_MB}"] = [
            round(small), round(much), f"+{much - small:.0f}",
        ]  # fmt: skip
        report = paired(
            "index_build",
            f"files to a cohort, {timed:,} a round, 1 % broken, one process",
            {"ours": ours, "pydicom.dcmread": with_pydicom, "8 KiB of each file": raw},
            rounds=arguments.rounds,
            extra=extra,
        )
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
