"""Labelmaps, reports, views of cohorts and their summary, on small built cohorts."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.index.dicoms import dataset, write_series

from scoutview.base.errors import ConfigError, DataError, JoinError, RunError
from scoutview.index.build import build_cohort
from scoutview.index.cohort import Cohort
from scoutview.index.config import (
    BoxSource,
    HoldOut,
    IndexConfig,
    LabelmapFolder,
    LabelTable,
    ReportTable,
)
from scoutview.index.summary import render, summarise

NIFTI = Path(__file__).parent.parent / "assets" / "nifti"


def images(folder, names=("1", "2", "3"), size=(10, 12)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros(size, np.uint8)).save(folder / f"{name}.png")
    return folder


def build(source, out, **settings):
    return build_cohort([source], out, IndexConfig(workers=1, **settings))


def problems(cohort):
    return pd.read_csv(cohort.folder / "problems.csv", keep_default_na=False)


def name_of(cohort, image_id):
    return Path(cohort.locators(image_id)[0].path).stem


def test_labelmaps__a_real_volume_finds_its_own(tmp_path):
    (tmp_path / "i").mkdir()
    (tmp_path / "m").mkdir()
    shutil.copy(NIFTI / "hippocampus_190.nii.gz", tmp_path / "i")
    shutil.copy(NIFTI / "hippocampus_190_labelmap.nii.gz", tmp_path / "m")
    maps = LabelmapFolder(folder=tmp_path / "m", suffix="_labelmap")
    cohort = build(tmp_path / "i", tmp_path / "c", labelmaps=maps)
    assert list(cohort.table["labelmap"]) == [True]
    place = cohort.labelmap(cohort.table["image_id"][0])
    assert place.path == str(tmp_path / "m" / "hippocampus_190_labelmap.nii.gz")


def test_labelmaps__wrong_sizes_and_strangers_are_problems(tmp_path):
    source = images(tmp_path / "s")
    images(source / "maps", ("1",))
    images(source / "maps", ("2",), size=(5, 5))
    images(source / "maps", ("9",))
    (source / "maps" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images(source, ("4",))
    (source / "maps" / "4.png").write_text("not found")
    cohort = build(source, tmp_path / "c", labelmaps=LabelmapFolder(folder=source / "maps"))
    assert len(cohort) == 4, "labelmaps inside the source are no images"
    has = dict(zip(cohort.table["image_id"], cohort.table["labelmap"], strict=True))
    assert {name_of(cohort, i): bool(v) for i, v in has.items()} == {
        "1": True,
        "2": False,
        "3": False,
        "4": False,
    }
    found = problems(cohort)
    assert {"labelmap_size", "labelmap_unmatched", "not_an_image"} < set(found["reason"])
    assert len(found) == 4
    wrong = found[found["reason"] == "labelmap_size"].iloc[0]
    assert name_of(cohort, wrong["image_id"]) == "2"
    assert "5x5" in wrong["detail"]
    missing = next(i for i, v in has.items() if not v)
    with pytest.raises(DataError, match="no labelmap"):
        cohort.labelmap(missing)


def test_labelmaps__and_boxes_that_are_links_to_nowhere_are_problems(tmp_path):
    source = images(tmp_path / "s")
    maps, boxes = images(tmp_path / "m", ("1",)), tmp_path / "b"
    boxes.mkdir()
    (boxes / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    for link in (maps / "2.png", boxes / "3.txt"):
        link.symlink_to("/nonexistent")
    settings = {
        "labelmaps": LabelmapFolder(folder=maps),
        "boxes": (BoxSource(path=boxes, format="yolo", classes=("a",)),),
    }
    cohort = build(source, tmp_path / "c", **settings)
    assert cohort.table["labelmap"].sum() == len(cohort.boxes) == 1
    found = problems(cohort).set_index("reason")["image_id"]
    told = {reason: name_of(cohort, image_id) for reason, image_id in found.items()}
    assert told == {"unreadable": "2", "box_unreadable": "3"}
    (maps / "2.png").unlink()
    images(maps, ("2",))
    assert build(source, tmp_path / "c", **settings).table["labelmap"].sum() == 2


def test_labelmaps__without_a_common_name_are_an_error(tmp_path):
    source = images(tmp_path / "s")
    maps = LabelmapFolder(folder=images(tmp_path / "m", ("x",)))
    with pytest.raises(JoinError, match="named like an image"):
        build(source, tmp_path / "c", labelmaps=maps)


def test_reports__from_a_table_and_from_files(tmp_path):
    source = images(tmp_path / "s")
    (tmp_path / "r.csv").write_text('file,text\n1.png,"No effusion,\nheart normal."\n2.png, \n')
    cohort = build(source, tmp_path / "c", reports=ReportTable(path=tmp_path / "r.csv"))
    assert cohort.reports["text"].tolist() == ["No effusion,\nheart normal."]
    assert name_of(cohort, cohort.reports["image_id"][0]) == "1"
    assert cohort.table["report"].sum() == 1
    assert problems(cohort)["reason"].tolist() == ["empty_report"]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "3.txt").write_text("Fracture.")
    cohort = build(source, tmp_path / "c", reports=ReportTable(path=tmp_path / "t"))
    assert name_of(cohort, cohort.reports["image_id"][0]) == "3"


def test_joins__rows_without_an_image_are_counted_and_told(tmp_path, caplog):
    source = images(tmp_path / "s")
    images(tmp_path / "m", ("1", "zeta9"))
    (tmp_path / "l.csv").write_text("id,sick,site\n1,1,a\n2,0,b\nanna-7,1,c\nbert-8,0,d\n3,1,e\n")
    (tmp_path / "b.csv").write_text(
        "id,class,ymin,xmin,ymax,xmax\n1,a,1,1,2,2\nanna-7,a,1,1,2,2\nanna-7,a,1,1,3,3\n"
    )
    (tmp_path / "r.csv").write_text("id,text\n1,clear\n2,clear\n2,clear\n")
    cohort = build(
        source,
        tmp_path / "c",
        labels=(LabelTable(table=tmp_path / "l.csv"),),
        boxes=(BoxSource(path=tmp_path / "b.csv", format="csv", id_column="id"),),
        labelmaps=LabelmapFolder(folder=tmp_path / "m"),
        reports=ReportTable(path=tmp_path / "r.csv"),
    )
    counts = {j["table"]: (j["matched"], j["rows"]) for j in cohort.content["joins"]}
    assert counts == {
        "label table": (3, 5),
        "box table": (1, 3),
        "labelmaps": (1, 2),
        "report table": (3, 3),
    }
    first = cohort.content["joins"][0]
    assert (first["taken"], first["ignored"]) == (["sick"], 1)
    assert "site" not in (cohort.folder / "cohort.json").read_text(), "only what was chosen"
    details = problems(cohort).set_index("reason")["detail"]
    assert set(details.index) == {"label_unmatched", "box_unmatched", "labelmap_unmatched"}
    assert details["label_unmatched"] == (
        "2 of 5 rows of the label table match no image, as AAAA-9, AAAA-9."
    )
    assert "2 of 3 rows of the box table match no image, as AAAA-9." in details["box_unmatched"]
    assert "2 of 3 entries of the box table" in caplog.text
    assert "1 of 3 rows of the report table name an image again" in caplog.text
    text = render(summarise(cohort))
    for line in (
        "label table  matched 3 of 5 rows",
        "labelmaps    matched 1 of 2 files",
        "matched 3 of 3 rows, 1 repeated",
    ):
        assert line in text


def test_joins__a_hold_out_keeps_the_patients_of_a_table_together(tmp_path):
    source = images(tmp_path / "s", [str(number) for number in range(40)])
    rows = [f"{number},p{number % 10},{number % 2}" for number in range(40)]
    (tmp_path / "l.csv").write_text("file,patient_id,sick\n" + "\n".join(rows))
    (tmp_path / "m.csv").write_text("file,Patient,ill\n" + "\n".join(rows).replace("p", "q"))
    tables = (LabelTable(table=tmp_path / "l.csv"), LabelTable(table=tmp_path / "m.csv"))
    cohort = build(source, tmp_path / "c", labels=tables, split=HoldOut())
    assert cohort.patient_ids_known
    assert cohort.table.groupby("patient_id")["split"].nunique().tolist() == [1] * 10
    patients = cohort.originals(list(cohort.table["image_id"]))["patient"]
    assert set(patients) == {f"p{number}" for number in range(10)}, "the first table's"


@pytest.fixture
def cohort(tmp_path):
    source = tmp_path / "s"
    write_series(source / "ct", 1, 4)
    write_series(source / "ct2", 2, 6)
    images(source / "xr")
    extra = dataset(
        Modality="CR",
        SOPInstanceUID="1.2.9",
        SeriesInstanceUID="1.2.8",
        PhotometricInterpretation="MONOCHROME1",
        BurnedInAnnotation="YES",
    )
    extra.save_as(source / "cr", enforce_file_format=True)
    (source / "note.txt").write_text("text")
    (tmp_path / "l.csv").write_text(
        "id,sick,grade,part\n1,1,a,train\n2,u,b,test\n3,0,a,train\ncr,,b,val\n"
    )
    table = LabelTable(
        table=tmp_path / "l.csv", columns=("sick", "grade"), split_column="part", id_column="id"
    )
    return build(source, tmp_path / "c", labels=(table,))


def test_where__gives_a_view_with_its_own_tables(cohort):
    assert len(cohort.where("kind == 'volume'")) == 2
    deep = cohort.where("n_slices > 4")
    assert len(deep) == 1
    assert len(deep.locators(deep.table["image_id"][0])) == 6
    assert len(cohort.where("n_slices > 1").where("n_slices < 5")) == 1
    assert cohort.where(None) is cohort
    reopened = Cohort.open(cohort.folder).where("n_slices > 4")
    pd.testing.assert_frame_equal(reopened.table, deep.table)
    with pytest.raises(DataError, match="No image"):
        cohort.where("n_slices > 99")


def test_split__is_a_view_of_one_part(cohort):
    assert {part: len(cohort.split(part)) for part in ("train", "val", "test", "")} == {
        "train": 2,
        "val": 1,
        "test": 1,
        "": 2,
    }
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        cohort.split("trian")


def test_locators__of_a_stranger_are_an_error(cohort):
    for wrong in ("f" * 16, "no hex", ""):
        with pytest.raises(DataError, match="has no image"):
            cohort.locators(wrong)
    (cohort.folder / "private.parquet").unlink()
    with pytest.raises(DataError, match=r"no private\.parquet"):
        Cohort.open(cohort.folder).locators(cohort.table["image_id"][0])


def test_open__refuses_other_folders(tmp_path):
    with pytest.raises(RunError, match="not a cohort"):
        Cohort.open(tmp_path)


def test_summary__counts_what_was_put_in(cohort):
    s = summarise(cohort)
    assert (s.images, s.volumes, s.slices, s.files) == (4, 2, 14, 15)
    assert s.counts["modality"] == {"unknown": 3, "CT": 2, "CR": 1}
    assert s.counts["split"] == {"": 2, "train": 2, "test": 1, "val": 1}
    assert (s.burned_in, s.monochrome1) == (1, 1)
    assert s.non_images == {"text": 1}
    assert not s.patient_ids_known
    sick = s.labels[0]
    assert (sick.positive, sick.negative, sick.uncertain, sick.missing) == (1, 1, 1, 3)
    kinds = {label.name: (label.positive, label.negative, label.missing) for label in s.labels[1:]}
    assert kinds == {"grade=a": (2, 2, 2), "grade=b": (2, 2, 2)}
    spacing = next(spread for spread in s.geometry if spread.name == "spacing_z")
    assert (spacing.smallest, spacing.largest, spacing.unknown) == (2.0, 2.0, 4)
    text = render(s)
    assert "2 volumes" in text
    assert "burned into" in text
    assert summarise(cohort.where("n_slices > 1")).images == 0
