"""The folder layout of the brain tumour set."""

from pathlib import Path

from scoutview.index.cohort import Cohort
from scoutview.recipes.brain_tumor import brain_tumor

ASSETS = Path(__file__).parents[1] / "assets" / "brain_boxes"


def test_brain_tumor__joins_classes_split_and_boxes(tmp_path):
    cohort = Cohort.open(brain_tumor(ASSETS, tmp_path / "cohort"))
    table = cohort.table
    assert sorted(table["class"]) == ["glioma", "meningioma", "pituitary"]
    assert sorted(table["split"]) == ["test", "test", "train"]
    assert set(table["modality"]) == {"MR"}
    boxes = cohort.boxes.merge(table, on="image_id")
    glioma = boxes[boxes["label"] == "glioma"].iloc[0]  # corners as in annotations.csv
    assert [glioma["y0"], glioma["x0"], glioma["y1"], glioma["x1"]] == [
        122.88,
        145.92,
        225.28,
        253.44,
    ]
