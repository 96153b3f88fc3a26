import numpy as np
import pandas as pd

from scoutview.results.datasheet import data_sheet

TABLE = pd.DataFrame(
    {
        "image_id": list("abcdef"),
        "patient_id": list("ppqrst"),
        "kind": "image",
        "modality": ["CT", "CT", "CT", "MR", "MR", ""],
        "split": ["train", "train", "train", "val", "test", "test"],
        "height": 10,
        "width": [10, 10, 10, 20, 20, 20],
        "spacing_y": [0.5, 0.5, 0.5, 0.7, 0.7, np.nan],
        "bits_stored": 12,
        "mass": [1.0, 0.0, -1.0, 1.0, np.nan, 0.0],
        "grade": ["low", "high", "", "low", "low", "high"],
    }
)
LABELS = [
    {"name": "mass", "kind": "binary", "classes": []},
    {"name": "grade", "kind": "multiclass", "classes": ["low", "high"]},
]


def test_data_sheet__counts_splits_and_every_kind_of_label_value():
    sheet = data_sheet(TABLE, LABELS, patient_ids_known=True)
    facts = dict(sheet.facts)
    assert facts["patients"] == "5"
    assert facts["modalities"] == "CT (3), MR (2), not stated (1)"
    assert facts["size in pixels"] == "10 x 10 to 10 x 20"
    assert facts["pixel spacing"] == "0.5 to 0.7 mm, not stated for 1"
    assert sheet.tables[0].rows == (
        ("images", "3", "1", "2"),
        ("patients", "2", "1", "2"),
        ("mass: positive", "1", "1", "0"),
        ("mass: negative", "1", "0", "1"),
        ("mass: uncertain", "1", "0", "0"),
        ("mass: missing", "0", "0", "1"),
        ("grade: low", "1", "1", "1"),
        ("grade: high", "1", "0", "1"),
        ("grade: missing", "1", "0", "0"),
    )


def test_data_sheet__names_dropped_copies():
    dropped = [{"split": "train", "of_split": "val", "kind": "exact", "image_ids": ["a", "b"]}]
    sheet = data_sheet(TABLE, LABELS, patient_ids_known=False, dropped=dropped, searched=True)
    assert sheet.duplicates == (
        "2 images of train are exact copies of images of val; they were dropped from train.",
    )
    assert sheet.duplicate_ids == ("a (train)", "b (train)")
    assert dict(sheet.facts)["patients"] == "not known"


def test_data_sheet__tells_once_what_several_studies_dropped():
    one = {"split": "train", "of_split": "val", "kind": "exact", "image_ids": ["a", "b"]}
    more, near = one | {"image_ids": ["b", "c"]}, one | {"kind": "near", "image_ids": ["c"]}
    dropped = [one, more, one, near]
    sheet = data_sheet(TABLE, LABELS, patient_ids_known=False, dropped=dropped, searched=True)
    assert [sentence.split(" copies")[0] for sentence in sheet.duplicates] == [
        "3 images of train are exact",
        "1 images of train are near",
    ]
    assert sheet.duplicate_ids == ("a (train)", "b (train)", "c (train)")


def test_data_sheet__says_whether_copies_were_searched_for():
    searched = data_sheet(TABLE, LABELS, patient_ids_known=True, searched=True)
    not_searched = data_sheet(TABLE, LABELS, patient_ids_known=True)
    assert searched.duplicates == ("No copies were found between the splits.",)
    assert "not recorded" in not_searched.duplicates[0]
