from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scoutview.base.errors import JoinError
from scoutview.index.boxes import join_boxes
from scoutview.index.build import build_cohort
from scoutview.index.config import BoxSource, IndexConfig
from scoutview.index.join import Keys

ASSETS = Path(__file__).parent.parent / "assets" / "brain_boxes"
CLASSES = ("pituitary", "meningioma", "glioma")
CORNERS = ["y0", "x0", "y1", "x1"]


@pytest.fixture
def cohort_of():
    frame = pd.DataFrame({"image_id": ["i1", "i2"], "name": ["s/1.png", "s/2.png"]})
    keys = Keys(frame.assign(image="", series="", study="", patient=""))
    images = pd.DataFrame(
        {"image_id": ["i1", "i2"], "file_id": ["f1", "f2"], "height": [100, 50], "width": [200, 80]}
    )
    return images, keys


@pytest.mark.parametrize(
    ("source", "tolerance"),
    [
        (BoxSource(path=ASSETS / "annotations.csv", format="csv"), 1e-6),
        (BoxSource(path=ASSETS / "coco.json", format="coco"), 0.011),
        (BoxSource(path=ASSETS / "voc", format="voc"), 1e-6),
        # Centres and sizes were rounded to 0.01 of 512 pixels.
        (BoxSource(path=ASSETS / "yolo", format="yolo", classes=CLASSES), 0.011),
    ],
    ids=lambda value: getattr(value, "format", ""),
)
def test_boxes__all_formats_of_real_slices_agree(tmp_path, source, tolerance):
    config = IndexConfig(workers=1, boxes=(source,))
    cohort = build_cohort([ASSETS / "images"], tmp_path / "c", config)
    given = pd.read_csv(ASSETS / "annotations.csv")
    assert len(cohort.boxes) == len(given) == 3
    for row in cohort.boxes.to_dict("records"):
        stem = Path(cohort.locators(row["image_id"])[0].path).stem
        want = given[given["image"] == f"images/{stem}.jpg"].iloc[0]
        assert row["label"] == want["class"]
        corners = want[["ymin", "xmin", "ymax", "xmax"]].to_numpy(dtype=float)
        np.testing.assert_allclose([row[c] for c in CORNERS], corners, atol=tolerance)


def test_boxes__voc_counts_pixels_from_one(tmp_path, cohort_of):
    text = """<annotation><object><name>n</name><bndbox><xmin>1</xmin><ymin>1</ymin>
    <xmax>1</xmax><ymax>2</ymax></bndbox></object></annotation>"""
    (tmp_path / "1.xml").write_text(text)
    boxes, _, _ = join_boxes(BoxSource(path=tmp_path, format="voc"), *cohort_of)
    assert boxes[CORNERS].to_numpy().tolist() == [[0, 0, 2, 1]]


def test_boxes__yolo_scales_with_each_image(tmp_path, cohort_of):
    (tmp_path / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "2.txt").write_text("1 0.25 0.5 0.5 1 0.9\n")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    boxes, problems, _ = join_boxes(BoxSource(path=tmp_path, format="yolo"), *cohort_of)
    assert boxes[["label", *CORNERS]].to_numpy().tolist() == [
        ["a", 25, 50, 75, 150],
        ["b", 0, 0, 50, 40],
    ]
    assert boxes["score"].to_numpy()[1] == pytest.approx(0.9)
    assert problems == []


def test_boxes__outside_empty_and_wrong_sizes_are_problems(tmp_path, cohort_of):
    path = tmp_path / "b.csv"
    path.write_text(
        "file,class,ymin,xmin,ymax,xmax\n"
        "1.png,a,10,10,20,250\n"
        "2.png,a,30,30,20,40\n"
        "2.png,a,,,,\n"
        "2.png,a,1,1,2,2\n"
    )
    boxes, problems, _ = join_boxes(BoxSource(path=path, format="csv"), *cohort_of)
    assert boxes[CORNERS].to_numpy().tolist() == [[10, 10, 20, 200], [1, 1, 2, 2]]
    assert [(p["image_id"], p["reason"]) for p in problems] == [
        ("i1", "box_outside"),
        ("i2", "box_empty"),
    ]
    coco = tmp_path / "c.json"
    coco.write_text(
        '{"images": [{"id": 1, "file_name": "1.png", "height": 200, "width": 100}],'
        '"categories": [{"id": 1, "name": "a"}],'
        '"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]}'
    )
    boxes, problems, _ = join_boxes(BoxSource(path=coco, format="coco"), *cohort_of)
    assert len(boxes) == 0
    assert [p["reason"] for p in problems] == ["box_image_size"]


@pytest.mark.parametrize(
    ("settings", "name", "text"),
    [
        ({"format": "yolo", "classes": ("a",)}, "{}.txt", "0 0.5 0.5 0.5 0.5\n"),
        (
            {"format": "voc"},
            "{}.xml",
            "<annotation><object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>1</xmax>"
            "<ymax>2</ymax></bndbox></object></annotation>",
        ),
    ],
    ids=["yolo", "voc"],
)
def test_boxes__a_link_that_leads_nowhere_is_a_problem(tmp_path, cohort_of, settings, name, text):
    (tmp_path / name.format(1)).write_text(text)
    (tmp_path / name.format(2)).symlink_to("/nonexistent")
    (tmp_path / name.format(3)).symlink_to("/nonexistent")
    boxes, problems, _ = join_boxes(BoxSource(path=tmp_path, **settings), *cohort_of)
    assert boxes["image_id"].tolist() == ["i1"]
    told = [(p["file_id"], p["image_id"], p["reason"]) for p in problems]
    assert told == [("f2", "i2", "box_unreadable"), ("", "", "box_unreadable")]
    assert not any("nonexistent" in str(p) for p in problems)


def test_boxes__damaged_sources_are_errors_that_say_what_is_expected(tmp_path, cohort_of):
    path = tmp_path / "b.json"
    path.write_text('{"images": []}')
    with pytest.raises(JoinError, match="COCO file with images"):
        join_boxes(BoxSource(path=path, format="coco"), *cohort_of)
    (tmp_path / "1.txt").write_text("0 0.5 0.5 x 0.5\n")
    with pytest.raises(JoinError, match="classes"):
        join_boxes(BoxSource(path=tmp_path, format="yolo"), *cohort_of)
    with pytest.raises(JoinError, match="ValueError"):
        join_boxes(BoxSource(path=tmp_path, format="yolo", classes=("a",)), *cohort_of)
    with pytest.raises(JoinError, match="no boxes"):
        join_boxes(BoxSource(path=tmp_path, format="voc"), *cohort_of)
    (tmp_path / "1.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")
    with pytest.raises(JoinError, match="Pascal VOC"):
        join_boxes(BoxSource(path=tmp_path, format="voc"), *cohort_of)
    (tmp_path / "b.csv").write_text("file,kind,ymin,xmin,ymax,xmax\n1.png,a,1,1,2,two\n")
    with pytest.raises(JoinError, match="no column 'class'"):
        join_boxes(BoxSource(path=tmp_path / "b.csv", format="csv"), *cohort_of)
    with pytest.raises(JoinError, match="must hold numbers"):
        join_boxes(
            BoxSource(path=tmp_path / "b.csv", format="csv", label_column="kind"), *cohort_of
        )
