"""Names, dates and addresses go in at every place; only private.parquet may hold them after."""

import io
import logging
import os
import socket
import stat
import sys
import tempfile
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from tests.cohorts import TINY, write_radiographs
from tests.command_line import scoutview
from tests.integration.planted import NAME, NUMBER, SECRETS, secrets_in, write_sources, written

from scoutview.index import build
from scoutview.index.cohort import Cohort

IMAGES = 40
NETWORK = (
    f"--set=backbone.name={TINY.name}",
    f"--set=backbone.stage_widths={list(TINY.stage_widths)}",
    f"--set=backbone.stage_depths={list(TINY.stage_depths)}",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The whole path on planted files: the output folder, what was printed, and what was logged."""
    folder = tmp_path_factory.mktemp("privacy")
    with np.load(write_radiographs(folder / "pick" / "set.npz", {"train": 4 * IMAGES})) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].ravel()
    # as many of each label, stratified: the cohort's key is random, and so is its hold-out
    even = [np.flatnonzero(labels == label)[: IMAGES // 2] for label in (0, 1)]
    images, labels = (array[np.sort(np.concatenate(even))] for array in (images, labels))
    scans, table = write_sources(folder / "in", images, labels)
    out = folder / "out"
    cohort, run, study = out / "cohort", out / "run", out / "study"
    index = ("index", scans, "--out", cohort, "--labels", table, "--workers", 2)
    shares = ("--set=split.val=0.25", "--set=split.test=0.25")
    split = ("--split", "holdout", *shares, '--set=split.stratify=["pneumonia"]')
    pretrain = ("pretrain", cohort, "--method", "simclr", "--out", run, *NETWORK)
    budget = ("--epochs", 2, "--batch-size", 8, "--set=log_every=1", "--set=probe_every=1")
    transfer = ("transfer", cohort, "--init", run, "--init", "random", "--out", study, *NETWORK)
    lines = [
        (*index, *split),
        ("store", cohort, "--workers", 2),
        ("show", cohort, "--sheet", out / "sheet.png", "--images", 6),
        (*pretrain, *budget),
        (*transfer, "--seed", 0, "--seed", 1, "--fraction", 0.5),
        ("embed", cohort, run, "--out", out / "embeddings"),
        ("compare", study, "--out", out / "results"),
        ("export", run, "--out", out / "exported"),
        transfer,  # refused: the folder has content
        ("show", cohort, "--where", f"modality == '{NAME.lower()}x' and nothing > 1"),
    ]
    printed, logged = run_all(lines)
    return out, printed, logged


def run_all(lines):
    """Run commands; returns statuses, what they printed, and all log records down to DEBUG."""
    capture = pytest.MonkeyPatch()
    records, handler = [], logging.Handler(logging.DEBUG)
    handler.emit = lambda record: records.append(handler.format(record))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # tells every font it looks at
    stream = io.StringIO()
    capture.setattr(sys, "stdout", stream)
    capture.setattr(sys, "stderr", stream)
    capture.setattr(build, "START_SECONDS", 0.0)  # worker processes from the first file on
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", ResourceWarning)  # Python shows none by itself
            with tempfile.TemporaryFile("w+", errors="replace") as printed:
                with all_processes_into(printed):
                    statuses = [scoutview(*line) for line in lines]
                printed.seek(0)
                by_processes = printed.read()
    finally:
        capture.undo()
        root.removeHandler(handler)
        root.setLevel(before)
    warned = (str(warning.message) for warning in told)
    text = "\n".join([stream.getvalue(), by_processes, *warned])
    assert statuses == [0] * (len(lines) - 2) + [2, 2], text
    return text, "\n".join(records)


@contextmanager
def all_processes_into(file):
    """Let a file take the descriptors of output and errors, which worker processes share."""
    kept = [os.dup(1), os.dup(2)]
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        for descriptor, copy in enumerate(kept, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)


def test_privacy__secrets_reached_the_readers(path):
    out, _, _ = path
    cohort = Cohort.open(out / "cohort")
    assert len(cohort) == IMAGES, "the planted files are images, and those of the archive too"
    assert set(cohort.table["pneumonia"]) == {0.0, 1.0}
    assert cohort.patient_ids_known
    originals = cohort.originals(cohort.table["image_id"].tolist())
    assert originals["patient"].str.startswith(NAME).all()
    assert sum(cohort.content["counts"]["problems"].values()) >= 2


def test_privacy__only_private_parquet_holds_a_secret(path):
    out, _, _ = path
    found = {}
    for name, text in written(out):
        for secret in secrets_in(text, name):
            found.setdefault(name, set()).add(secret)
    private = found.pop("cohort/private.parquet")
    assert {NAME, NUMBER} & private
    assert found == {}
    mode = (out / "cohort" / "private.parquet").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_privacy__nothing_printed_or_logged_holds_a_secret(path):
    _, printed, logged = path
    assert "scoutview" in printed
    assert "samples seen" in logged
    # the last command's own --where stands in its error: what the user typed may come back
    typed = f"{NAME.lower()}x"
    assert secrets_in(printed.replace(typed, "")) == []
    assert secrets_in(logged) == []


def test_privacy__no_output_names_places_or_the_machine(path):
    out, _, _ = path
    places = {str(out.parent), str(out.parent.parent)}
    if len(socket.gethostname()) >= 8:  # a short one stands in random bytes as well
        places.add(socket.gethostname())
    for name, text in written(out):
        if name != "cohort/private.parquet":
            assert [place for place in places if place in text] == [], name


def test_privacy__the_search_itself_finds_what_is_planted(tmp_path):
    note = PngImagePlugin.PngInfo()
    note.add_text("who", NAME, zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=note)
    (tmp_path / f"{SECRETS[2]}.txt").write_text("nothing")
    found = {name: secrets_in(text) for name, text in written(tmp_path) if secrets_in(text)}
    assert found == {"a.png": [NAME], f"{SECRETS[2]}.txt": [SECRETS[2]]}
