import pandas as pd
import pytest

from scoutview.base.errors import DataError, LeakageError
from scoutview.tasks.leakage import check_parts, check_patients, check_pretraining, resolve_copies

PARTS = pd.Series(
    ["train", "train", "train", "val", "val", "test"], index=["a", "b", "c", "d", "e", "f"]
)
PAIRS = pd.DataFrame(
    [
        ("d", "a", "exact"),  # val and train
        ("b", "f", "near"),  # train and test
        ("e", "f", "exact"),  # val and test
        ("a", "b", "exact"),  # within train: no leak
        ("c", "x", "exact"),  # x was not selected
    ],
    columns=["image_id_a", "image_id_b", "kind"],
)


def test_resolve_copies__refuses_and_counts_each_kind():
    with pytest.raises(LeakageError, match="1 image of train is a near copy of test") as error:
        resolve_copies(PARTS, PAIRS, "refuse")
    assert "1 image of train is an exact copy of val images" in str(error.value)
    assert "1 image of val is an exact copy of test images" in str(error.value)


def test_resolve_copies__drops_from_train_first_and_never_from_test():
    found = resolve_copies(PARTS, PAIRS, "drop")
    assert found.drop == {"a", "b", "e"}
    assert {
        "split": "train",
        "of_split": "val",
        "kind": "exact",
        "image_ids": ["a"],
    } in found.dropped
    kept = PARTS.drop(list(found.drop))
    assert resolve_copies(kept, PAIRS, "refuse").drop == frozenset()


def test_resolve_copies__allowed_are_told_and_kept():
    found = resolve_copies(PARTS, PAIRS, "allow")
    assert not found.drop
    assert "allowed" in found.notes[0]


def test_resolve_copies__without_any_says_nothing():
    found = resolve_copies(PARTS, PAIRS.iloc[3:], "refuse")
    assert (found.drop, found.notes, found.dropped) == (frozenset(), (), [])


def test_check_patients__refuses_a_patient_in_two_parts():
    table = pd.DataFrame({"patient_id": ["p", "p", "q"], "part": ["train", "train", "val"]})
    check_patients(table)
    table.loc[1, "part"] = "test"
    with pytest.raises(LeakageError, match="1 patients"):
        check_patients(table)


def test_check_parts__names_folds_that_suffice():
    train = PARTS[PARTS == "train"]
    with pytest.raises(DataError, match=r"all three, or test on .* 4 folds with --set folds=\["):
        check_parts(train, folds=4)
    with pytest.raises(DataError, match=r"with all three\.$"):
        check_parts(train, folds=2)


def test_check_parts__names_the_part_that_is_missing():
    check_parts(PARTS)
    with pytest.raises(DataError, match="image is in val, test"):
        check_parts(PARTS.iloc[:3])


def test_check_pretraining__refuses_or_tells_test_images_that_were_seen():
    assert check_pretraining(["a"], ["b"], allow=False, by="image id") == ()
    with pytest.raises(LeakageError, match="1 of 2 test images"):
        check_pretraining(["a", "b"], ["b", "c"], allow=False, by="image id")
    (note,) = check_pretraining(["a", "b"], ["b", "c"], allow=True, by="image id")
    assert "this was allowed" in note
