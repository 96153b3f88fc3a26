"""Out of memory, handles or disk is no damage of a file; a file's own faults stay problems."""

import errno
import io
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from scoutview.index.build import build_cohort
from scoutview.index.config import IndexConfig
from scoutview.pixels import failures, probe, raster
from scoutview.pixels.failures import pass_on, too_large
from scoutview.pixels.findings import PixelError
from scoutview.pixels.headers import Header, Locator
from scoutview.pixels.read import read
from scoutview.store import prepare
from scoutview.store.build import build_store

RADIOGRAPH = Path(__file__).parents[1] / "assets" / "rasters" / "radiograph.png"

MACHINE = [
    MemoryError(),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("can't start new thread"),
]


def named(error):
    return f"{type(error).__name__}-{getattr(error, 'errno', '')}"


@pytest.mark.parametrize("error", MACHINE, ids=named)
def test_pass_on__raises_what_no_file_can_cause(error):
    with pytest.raises(type(error)) as raised:
        pass_on(error)
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        OSError(errno.EIO, "Input/output error"),  # a bad sector below one file
        PermissionError(errno.EACCES, "Permission denied"),
        OSError("image file is truncated"),
        ValueError("bad header"),
        RuntimeError("decoder failed"),
    ],
    ids=named,
)
def test_pass_on__leaves_what_a_file_can_cause(error):
    assert pass_on(error) is None  # and does not raise


def test_pass_on__tells_a_full_memory_from_an_absurd_request(monkeypatch):
    with pytest.raises(MemoryError) as absurd:
        np.empty(1 << 60, dtype=np.uint8)
    pass_on(absurd.value)
    monkeypatch.setattr(failures, "memory", lambda: 1 << 61)
    with pytest.raises(MemoryError):
        pass_on(absurd.value)


def test_pass_on__knows_that_opencv_has_no_memory():
    with pytest.raises(cv2.error) as refused:
        cv2.resize(np.zeros((4, 4), dtype=np.uint8), (1 << 30, 1 << 30))
    if refused.value.code == cv2.Error.StsNoMem:
        with pytest.raises(cv2.error):
            pass_on(refused.value)
    refused.value.code = cv2.Error.StsBadArg
    pass_on(refused.value)


def test_too_large__counts_all_bytes(monkeypatch):
    header = Header(Locator("x"), "dicom", (10, 20, 30), "int16", channels=3)
    monkeypatch.setattr(failures, "memory", lambda: 10 * 20 * 30 * 3 * 2)
    assert not too_large(header)
    monkeypatch.setattr(failures, "memory", lambda: 10 * 20 * 30 * 3 * 2 - 1)
    assert too_large(header)


def test_memory__is_that_of_this_machine():
    assert 1 << 28 < failures.memory() < 1 << 50


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(RADIOGRAPH, folder)
    return folder


def test_index__lists_a_bad_sector_and_tries_the_file_again(sources, monkeypatch):
    shutil.copy(RADIOGRAPH, sources / "second.png")
    healthy = probe.probe_raster

    def fails(*arguments):
        if "second" in str(arguments):
            raise OSError(errno.EIO, "Input/output error")
        return healthy(*arguments)

    out, config = sources.parent / "cohort", IndexConfig(workers=1)
    monkeypatch.setattr(probe, "probe_raster", fails)
    for _ in range(2):  # it stays listed, once, as long as it cannot be read
        cohort = build_cohort([sources], out, config)
        assert len(cohort.table) == 1
        assert list(pd.read_csv(out / "problems.csv")["reason"]) == ["unreadable"]
    monkeypatch.undo()
    cohort = build_cohort([sources], out, config)
    assert len(cohort.table) == 2
    assert cohort.content["counts"]["problems"] == {}


@pytest.mark.parametrize("error", MACHINE, ids=named)
def test_index__stops_when_the_machine_fails_and_goes_on_later(sources, monkeypatch, error):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(probe, "probe_raster", fails)
    out, config = sources.parent / "cohort", IndexConfig(workers=1)
    with pytest.raises(type(error)):
        build_cohort([sources], out, config)
    monkeypatch.undo()
    cohort = build_cohort([sources], out, config)
    assert (len(cohort), cohort.content["counts"]["problems"]) == (1, {})


@pytest.mark.parametrize("error", MACHINE, ids=named)
def test_store__stops_when_the_machine_fails_and_goes_on_later(sources, monkeypatch, error):
    def fails(*arguments):
        raise error

    cohort = build_cohort([sources], sources.parent / "cohort", IndexConfig(workers=1))
    monkeypatch.setattr(raster, "_page", fails)
    with pytest.raises(type(error)):
        build_store(cohort, workers=1)
    monkeypatch.undo()
    store = build_store(cohort, workers=1)
    assert (len(store), store.absent) == (1, 0)


def test_read__an_image_larger_than_the_machine_is_a_problem_of_its_own(monkeypatch):
    def fails(*arguments):
        raise MemoryError

    monkeypatch.setattr(raster, "_page", fails)
    with pytest.raises(MemoryError):
        read(Locator(str(RADIOGRAPH)))
    monkeypatch.setattr(failures, "memory", lambda: 1000)
    with pytest.raises(PixelError) as refused:
        read(Locator(str(RADIOGRAPH)))
    assert refused.value.problem.reason == "too_large"


def test_index__an_array_that_claims_to_be_huge_is_a_problem(tmp_path):
    """Its header promises 2^60 labels, for which numpy would ask the machine at once."""
    images, labels = io.BytesIO(), io.BytesIO()
    np.save(images, np.zeros((2, 8, 8), dtype=np.uint8))
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 60,)}
    np.lib.format.write_array_header_1_0(labels, header)
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "set.npz", "w") as archive:
        archive.writestr("train_images.npy", images.getvalue())
        archive.writestr("train_labels.npy", labels.getvalue())
    shutil.copy(RADIOGRAPH, tmp_path / "in")
    cohort = build_cohort([tmp_path / "in"], tmp_path / "cohort", IndexConfig(workers=1))
    assert len(cohort) == 1
    assert sum(cohort.content["counts"]["problems"].values()) == 1


def test_store__names_what_stays_a_problem_of_the_file(sources, monkeypatch):
    def fails(*arguments):
        raise ValueError("bytes")

    cohort = build_cohort([sources], sources.parent / "cohort", IndexConfig(workers=1))
    monkeypatch.setattr(prepare, "describe", fails)
    store = build_store(cohort, workers=1)
    assert [problem["reason"] for problem in store.problems()] == ["damaged"]
