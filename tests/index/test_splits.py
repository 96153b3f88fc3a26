import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoutview.base.errors import ConfigError, LeakageError
from scoutview.index.splits import by_column, hold_out, k_fold, require_apart


def table_of(patients, label=None):
    frame = pd.DataFrame({"patient_id": [f"p{p}" for p in patients]})
    frame["label"] = label if label is not None else 0.0
    return frame


def parts_per_patient(table, parts):
    return pd.Series(np.asarray(parts)).groupby(table["patient_id"].to_numpy()).nunique()


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.integers(0, 60), min_size=80, max_size=200),
    seed=st.integers(0, 2**31),
    stratified=st.booleans(),
    data=st.data(),
)
def test_splits__no_patient_crosses(patients, seed, stratified, data):
    labels = data.draw(
        st.lists(
            st.sampled_from([0.0, 1.0, np.nan]), min_size=len(patients), max_size=len(patients)
        )
    )
    table = table_of([*range(20), *patients], [0.0] * 20 + labels)
    columns = ["label"] if stratified else []
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    parts = hold_out(table, shares, seed=seed, stratify=columns)
    assert parts_per_patient(table, parts).max() == 1
    folds = k_fold(table, 5, seed=seed, stratify=columns)
    assert parts_per_patient(table, folds).max() == 1
    sizes = table.assign(f=folds).groupby("f")["patient_id"].nunique()
    assert sizes.max() - sizes.min() <= 1


def test_hold_out__gives_the_asked_shares_in_every_stratum():
    table = table_of(range(1000), [1.0] * 200 + [0.0] * 800)
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    table["part"] = hold_out(table, shares, seed=3, stratify=["label"])
    counts = table.groupby(["label", "part"]).size()
    assert dict(counts[1.0]) == pytest.approx({"test": 40, "train": 140, "val": 20}, abs=1)
    assert dict(counts[0.0]) == pytest.approx({"test": 160, "train": 560, "val": 80}, abs=1)


def test_hold_out__does_not_depend_on_the_order_of_rows():
    table = table_of(np.repeat(np.arange(50), 3))
    shuffled = table.sample(frac=1, random_state=0)
    shares = {"train": 0.5, "test": 0.5}
    first = hold_out(table, shares, seed=1)
    assert first.equals(hold_out(shuffled, shares, seed=1).sort_index())
    assert not first.equals(hold_out(table, shares, seed=2))


def test_hold_out__refuses_shares_that_leave_a_part_empty():
    with pytest.raises(ConfigError, match="no patient for"):
        hold_out(table_of([0, 0, 1]), {"train": 0.9, "val": 0.05, "test": 0.05}, seed=0)
    with pytest.raises(ConfigError, match="sum to 1"):
        hold_out(table_of([0, 1]), {"train": 0.9, "test": 0.2}, seed=0)


def test_k_fold__refuses_fewer_patients_than_folds():
    with pytest.raises(ConfigError, match="fewer folds"):
        k_fold(table_of([0, 0, 0, 1]), 3, seed=0)


def test_by_column__maps_values_and_names_the_nearest_wrong_one():
    table = table_of([0, 1, 2]).assign(site=["bern", "rome", "oslo"])
    parts = by_column(table, "site", {"train": ["bern"], "test": ["rome"]})
    assert list(parts) == ["train", "test", ""]
    with pytest.raises(ConfigError, match="'rome'"):
        by_column(table, "site", {"train": ["rom"]})
    with pytest.raises(ConfigError, match="two parts"):
        by_column(table, "site", {"train": ["rome"], "test": ["rome"]})


def test_require_apart__refuses_a_crossing_patient_unless_allowed():
    table = table_of([0, 0, 1, 2]).assign(split=["train", "test", "train", ""])
    with pytest.raises(LeakageError, match="1 of 2 patients"):
        require_apart(table)
    assert require_apart(table, allow_patient_overlap=True) == 1
    assert require_apart(table[1:]) == 0
