import logging
import shutil

import numpy as np
import pytest
from tests.cohorts import radiograph_cohort

from scoutview.api.index import open_cohort
from scoutview.api.store import store, stored
from scoutview.base.errors import ConfigError, DataError
from scoutview.store.build import StoreConfig
from scoutview.store.reader import Store

COUNTS = {"train": 10, "val": 6, "test": 4}


@pytest.fixture
def cohort(tmp_path):
    return radiograph_cohort(tmp_path, COUNTS)


def held(cohort):
    """Image ids that the store has, in its order."""
    table = open_cohort(cohort).table
    keys = Store.open(cohort).table.mapped["image_key"]
    return table.set_index("image_key").loc[keys, "image_id"].tolist()


def ids(cohort, where=None):
    return open_cohort(cohort, where).table["image_id"].tolist()


def test_store__holds_the_part_that_where_names(cohort):
    folder = store(cohort, where="split == 'val'", workers=1)
    assert folder == cohort / "store"
    assert held(cohort) == ids(cohort, "split == 'val'")


def test_store__parts_do_not_push_each_other_out(cohort):
    for part in ("val", "test"):
        store(cohort, where=f"split == '{part}'", workers=1)
    assert held(cohort) == ids(cohort, "split in ['val', 'test']")
    store(cohort, workers=1)
    assert held(cohort) == ids(cohort)


def test_store__without_settings_keeps_those_of_the_store(cohort):
    store(cohort, config=StoreConfig(codec="lz4", max_side=20), where="split == 'val'", workers=1)
    store(cohort, workers=1)
    opened = Store.open(cohort)
    assert (opened.config["codec"], opened.config["max_side"]) == ("lz4", 20)
    assert opened.read(0).shape == (20, 20)


def test_store__refuses_expressions_that_hold_for_nothing(cohort):
    with pytest.raises(DataError, match="No image of 20 fits"):
        store(cohort, where="modality == 'CT'", workers=1)
    with pytest.raises(ConfigError, match="Did you mean 'modality'"):
        store(cohort, where="modalty == 'CT'", workers=1)
    assert not (cohort / "store").exists()


def test_stored__builds_a_missing_store_and_says_so(cohort, caplog):
    with caplog.at_level(logging.INFO, logger="scoutview"):
        opened = stored(open_cohort(cohort, "split == 'val'"), workers=1)
    assert "no store yet; decoding 6 images" in caplog.text
    assert len(opened) == 6


def test_stored__adds_what_is_missing_and_keeps_the_settings(cohort):
    store(cohort, config=StoreConfig(codec="lz4", max_side=20), where="split == 'val'", workers=1)
    opened = stored(open_cohort(cohort, "split == 'test'"), workers=1)
    assert held(cohort) == ids(cohort, "split in ['val', 'test']")
    assert opened.config["codec"] == "lz4"
    assert opened.read(0).shape == (20, 20), "not decoded again at full size"


def test_stored__does_nothing_twice(cohort):
    store(cohort, workers=1)
    before = {p: p.stat().st_mtime_ns for p in (cohort / "store").rglob("*") if p.is_file()}
    assert len(stored(open_cohort(cohort, "split == 'val'"), workers=1)) == 20
    stored(open_cohort(cohort), workers=1)
    assert before == {p: p.stat().st_mtime_ns for p in (cohort / "store").rglob("*") if p.is_file()}


def test_stored__works_where_only_cohort_and_store_were_passed_on(cohort, tmp_path):
    store(cohort, where="split == 'val'", workers=1)
    copy = tmp_path / "passed_on"
    shutil.copytree(cohort, copy, ignore=shutil.ignore_patterns("private.parquet"))
    (tmp_path / "radiographs.npz").unlink()
    part = open_cohort(copy, "split == 'val'")
    opened = stored(part)
    original = Store.open(cohort)
    for row in opened.row_of(part.table["image_id"]):
        np.testing.assert_array_equal(opened.read(int(row)), original.read(int(row)))
    with pytest.raises(DataError, match=r"no private\.parquet"):
        stored(open_cohort(copy))
    shutil.rmtree(copy / "store")
    with pytest.raises(DataError, match=r"no private\.parquet"):
        stored(part)
