import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.command_line import scoutview
from tests.index.dicoms import BROKEN, encoded, slice_bytes, write_many, write_series
from tests.index.measured import FOLDER, WORKERS
from tests.processes import kill_everywhere

from scoutview.base.errors import ConfigError, DataError, LeakageError, RunError
from scoutview.index import records
from scoutview.index.build import BUILDING, build_cohort
from scoutview.index.cohort import Cohort
from scoutview.index.config import (
    ColumnSplit,
    HoldOut,
    IndexConfig,
    KFold,
    LabelmapFolder,
    LabelTable,
    ReportTable,
    SourceSplit,
)

ASSETS = Path(__file__).parent.parent / "assets"
ONE = {"workers": 1}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """SIGKILL loses no written page, so syncing proves nothing here; dying inside it still does."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def build(source, out, **settings):
    return build_cohort([source], out, IndexConfig(**(ONE | settings)))


def problems(cohort):
    return pd.read_csv(cohort.folder / "problems.csv", keep_default_na=False)


def reasons(cohort):
    return sorted(problems(cohort)["reason"])


@pytest.fixture
def probed(monkeypatch):
    """Names of the files whose headers were read."""
    names = []
    original = records.probe

    def probe(path):
        names.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(records, "probe", probe)
    return names


def test_build__real_head_ct_becomes_one_tilted_uneven_volume(tmp_path):
    cohort = build(ASSETS / "ct_head", tmp_path / "c")
    assert len(cohort) == 1
    row = cohort.table.iloc[0]
    assert (row["kind"], row["n_slices"], row["orientation"]) == ("volume", 28, "LPS")
    assert row["gantry_tilt"] == pytest.approx(18.5)
    assert row["modality"] == "CT"
    found = problems(cohort).set_index("reason")
    assert "18.5" in found.loc["gantry_tilt", "detail"]
    assert "1.14, 4.22, 7.38" in found.loc["uneven_spacing", "detail"]
    assert set(found["image_id"]) == {row["image_id"]}
    order = [locator.member for locator in cohort.locators(row["image_id"])]
    heights = pd.read_csv(ASSETS / "ct_head" / "slices.csv").sort_values("z")["file"]
    assert [Path(name).name for name in order] == [Path(name).name for name in heights]


def test_build__real_files_of_many_kinds(tmp_path):
    cohort = build(ASSETS / "dicom_zoo", tmp_path / "c")
    counts = cohort.content["counts"]
    assert counts["non_images"]["segmentation"] >= 1
    assert counts["problems"]["truncated"] == 1
    expected = pd.read_csv(ASSETS / "dicom_zoo" / "expected.csv")
    there = {path.name for path in (ASSETS / "dicom_zoo" / "files").iterdir()}
    images = expected[expected["file"].isin(there) & expected["shape"].notna()]
    images = images[~images["modality"].isin(["SEG", "RTDOSE"])]
    indexed = {Path(cohort.locators(i)[0].path).name for i in cohort.table["image_id"]}
    assert indexed == set(images["file"]) - {
        row.file for row in images.itertuples() if "trunc" in str(row.file)
    }


def test_build__a_text_named_like_an_image_is_a_problem(tmp_path):
    source = tmp_path / "s"
    write_series(source, 1, 2)
    for name in ("1.png", "2.JPG", "3.tif", "4.dcm", "5.nii", "6.nii.gz"):
        (source / name).write_text("<html>Session expired</html>")
    (source / "._real.png").write_bytes(b"\0\x05\x16\x07" + bytes(40))
    (source / "notes.txt").write_text("none")
    with zipfile.ZipFile(source / "more.zip", "w") as archive:
        archive.writestr("7.png", "not found")
    cohort = build(tmp_path / "s", tmp_path / "c")
    assert cohort.content["counts"]["non_images"] == {"system": 1, "text": 1}
    found = pd.read_csv(tmp_path / "c" / "problems.csv")
    assert found["reason"].tolist() == ["not_an_image"] * 7
    assert found["detail"].str.contains(r"ends in \.png, but .* \(xml\)").any()
    assert found["action"].str.contains("again").all()
    with pytest.raises(DataError, match="7 not_an_image"):
        build(tmp_path / "s", tmp_path / "d", strict=True)


def test_build__radiographs_stay_images_with_labels_masks_and_patients(tmp_path):
    source = ASSETS / "radiographs"
    table = LabelTable(
        table=source / "labels.csv",
        columns=("projection_ap", "in_icu_at_exam", "ever_icu", "died"),  # all 0 in these four
        patient_column="patient_id",
        split_column="split",
    )
    cohort = build(
        source / "images",
        tmp_path / "c",
        labels=(table,),
        labelmaps=LabelmapFolder(folder=source / "masks", names={1: "right lung", 2: "left lung"}),
    )
    frame = cohort.table
    assert len(frame) == 4
    assert frame["patient_id"].nunique() == 3
    assert cohort.patient_ids_known
    assert [label.name for label in cohort.labels] == [
        "projection_ap",
        "in_icu_at_exam",
        "ever_icu",
        "died",
    ]
    assert frame["split"].value_counts().to_dict() == {"train": 3, "test": 1}
    given = pd.read_csv(source / "labels.csv").set_index("image")
    for image_id, has_map in zip(frame["image_id"], frame["labelmap"], strict=True):
        name = Path(cohort.locators(image_id)[0].path).name
        assert has_map == isinstance(given.loc[f"images/{name}", "mask"], str)
        if has_map:
            assert Path(cohort.labelmap(image_id).path) == source / "masks" / name
    assert cohort.content["labelmap_names"] == {"1": "right lung", "2": "left lung"}
    original = cohort.originals(list(frame["image_id"]))
    assert set(original["patient"]) == {"f602d0dc", "969dd2e0", "8d6990f2"}


def test_build__npz_keeps_its_split_and_labels(tmp_path):
    arrays = {}
    for split, labels in (("train", [0, 1, 1]), ("val", [0]), ("test", [1, 0])):
        arrays[f"{split}_images"] = np.zeros((len(labels), 28, 28), np.uint8)
        arrays[f"{split}_labels"] = np.array(labels)[:, None]
    np.savez(tmp_path / "toy.npz", **arrays)
    cohort = build(tmp_path / "toy.npz", tmp_path / "c")
    counted = cohort.table.groupby(["split", "label"]).size().to_dict()
    assert counted == {
        ("train", 0): 1, ("train", 1): 2, ("val", 0): 1, ("test", 0): 1, ("test", 1): 1,
    }  # fmt: skip
    assert not cohort.patient_ids_known
    assert (cohort.table["patient_id"] == cohort.table["image_id"]).all()
    for image_id, label in zip(cohort.table["image_id"], cohort.table["label"], strict=True):
        (place,) = cohort.locators(image_id)
        split = place.member.removesuffix("_images")
        assert arrays[f"{split}_labels"][place.item, 0] == label


def test_build__slices_become_volumes_and_broken_files_problems(tmp_path):
    write_series(tmp_path / "s" / "a", 1, 5)
    write_series(tmp_path / "s" / "b" / "deep", 2, 3)
    (tmp_path / "s" / "b" / "cut.dcm").write_bytes(encoded()[:-100])
    (tmp_path / "s" / "notes.txt").write_text("nothing")
    cohort = build(tmp_path / "s", tmp_path / "c")
    frame = cohort.table.sort_values("n_slices")
    assert list(frame["n_slices"]) == [3, 5]
    assert list(frame["spacing_z"]) == [2.0, 2.0]
    assert reasons(cohort) == ["truncated"]
    assert cohort.content["counts"]["non_images"] == {"text": 1}
    names = [Path(p.path).name for p in cohort.locators(frame["image_id"].iloc[1])]
    assert names == [f"{n:04d}.dcm" for n in range(5)]


def test_build__unchanged_files_are_not_read_again(tmp_path, probed):
    write_series(tmp_path / "s" / "a", 1, 4)
    write_series(tmp_path / "s" / "b", 2, 4)
    first = build(tmp_path / "s", tmp_path / "c").table
    assert len(probed) == 8
    probed.clear()
    before = (tmp_path / "c" / "index.parquet").stat().st_mtime_ns
    again = build(tmp_path / "s", tmp_path / "c").table
    pd.testing.assert_frame_equal(first, again)
    assert probed == []
    assert (tmp_path / "c" / "index.parquet").stat().st_mtime_ns == before
    os.utime(tmp_path / "s" / "a" / "0002.dcm")
    template = encoded()
    new = slice_bytes(template, image=9999, series=1, patient=1, z=8.0)
    (tmp_path / "s" / "a" / "new.dcm").write_bytes(new)
    (tmp_path / "s" / "b" / "0000.dcm").unlink()
    changed = build(tmp_path / "s", tmp_path / "c").table
    assert sorted(probed) == ["0002.dcm", "new.dcm"]
    assert sorted(changed["n_slices"]) == [3, 5]
    assert set(changed["image_id"]) == set(first["image_id"]), "a volume keeps its id as it grows"


def test_build__new_labels_need_no_new_reading(tmp_path, probed):
    write_series(tmp_path / "s", 1, 3, patient=7)
    build(tmp_path / "s", tmp_path / "c")
    probed.clear()
    (tmp_path / "l.csv").write_text("patient,sick\nPAT00000007,1\n")
    table = LabelTable(table=tmp_path / "l.csv", columns=("sick",))
    cohort = build(tmp_path / "s", tmp_path / "c", labels=(table,))
    assert probed == []
    assert list(cohort.table["sick"]) == [1.0]
    (tmp_path / "l.csv").write_text("patient,sick\nPAT00000007,0\n\n")
    assert list(build(tmp_path / "s", tmp_path / "c", labels=(table,)).table["sick"]) == [0.0]


@pytest.mark.ddp
def test_build__processes_give_the_same_cohort_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("scoutview.index.build._CHUNK", 7)
    monkeypatch.setattr("scoutview.index.build._BUCKET_ROWS", 10)
    write_many(tmp_path / "s", 60, per_series=6, broken_every=20)
    key = tmp_path / "key"
    one = build(tmp_path / "s", tmp_path / "one", key_file=key)
    three = build(tmp_path / "s", tmp_path / "three", key_file=key, workers=3)
    pd.testing.assert_frame_equal(one.table, three.table)
    pd.testing.assert_frame_equal(problems(one), problems(three))
    assert one.content["counts"] == three.content["counts"]
    image = one.table["image_id"][2]
    assert one.locators(image) == three.locators(image)


def test_build__sources_are_never_touched(tmp_path):
    write_series(tmp_path / "s", 1, 3)
    (tmp_path / "s" / "cut").write_bytes(encoded()[:-7])
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "s").rglob("*")}
    for path in (tmp_path / "s").rglob("*"):
        path.chmod(0o400)
    build(tmp_path / "s", tmp_path / "c")
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "s").rglob("*")}
    assert before == after


def test_build__a_cohort_inside_its_source_is_not_indexed(tmp_path):
    write_series(tmp_path / "s", 1, 3)
    first = build(tmp_path / "s", tmp_path / "s" / "cohort")
    assert build(tmp_path / "s", tmp_path / "s" / "cohort").content == first.content
    assert first.content["counts"]["files"] == 3


def test_build__strict_turns_problems_into_an_error_that_can_be_lifted(tmp_path, probed):
    write_series(tmp_path / "s", 1, 3)
    (tmp_path / "s" / "cut").write_bytes(encoded()[:-100])
    with pytest.raises(DataError, match="1 truncated"):
        build(tmp_path / "s", tmp_path / "c", strict=True)
    assert "truncated" in (tmp_path / "c" / "problems.csv").read_text()
    with pytest.raises(RunError, match="unfinished"):
        Cohort.open(tmp_path / "c")
    probed.clear()
    assert len(build(tmp_path / "s", tmp_path / "c")) == 1
    assert probed == []
    with pytest.raises(DataError, match="1 truncated"):
        build(tmp_path / "s", tmp_path / "c", strict=True)


@pytest.mark.parametrize("settings", [{}, {"strict": True}], ids=["empty", "strict"])
def test_build__a_refused_source_keeps_the_finished_cohort(tmp_path, settings):
    write_series(tmp_path / "s", 1, 2)
    before = whole(build(tmp_path / "s", tmp_path / "c").folder)
    (tmp_path / "bad").mkdir()
    if settings:
        write_series(tmp_path / "bad", 2, 2)
        (tmp_path / "bad" / "cut").write_bytes(encoded()[:-100])
    with pytest.raises(DataError, match=r"\.building/problems\.csv"):
        build(tmp_path / "bad", tmp_path / "c", **settings)
    assert whole(tmp_path / "c") == before
    assert ("truncated" in (tmp_path / "c" / BUILDING / "problems.csv").read_text()) == bool(
        settings
    )


def test_build__warns_of_labels_and_images_that_are_gone(tmp_path, caplog):
    for series in range(3):
        write_series(tmp_path / "s" / str(series), series, 2)
    key = tmp_path / "key"
    names = [f"{series}/0000.dcm" for series in range(3)]
    pd.DataFrame({"file": names, "ill": [0, 1, 1], "late": [1, 0, 1]}).to_csv(
        tmp_path / "labels.csv", index=False
    )
    labels = (LabelTable(table=tmp_path / "labels.csv"),)
    first = build(tmp_path / "s", tmp_path / "c", labels=labels, key_file=key)
    assert [label.name for label in first.labels] == ["ill", "late"]
    build(tmp_path / "s", tmp_path / "c", labels=labels, key_file=key)
    assert "gone" not in caplog.text
    build(tmp_path / "s", tmp_path / "c", key_file=key)
    assert "2 of 2 labels that the cohort had are gone" in caplog.text
    assert "images that the cohort had" not in caplog.text
    build(tmp_path / "s" / "1", tmp_path / "c", key_file=key)
    assert "2 of 3 images that the cohort had are gone" in caplog.text
    build(tmp_path / "s", tmp_path / "c", key_file=key)
    assert caplog.text.count("gone") == 2, "more images lose none"


def test_build__warns_of_joined_tables_that_are_gone(tmp_path, caplog):
    write_series(tmp_path / "s", 1, 2)
    labels, reports = tmp_path / "labels.csv", tmp_path / "reports.csv"
    pd.DataFrame({"file": ["0000.dcm"], "ill": [1], "site": ["A"]}).to_csv(labels, index=False)
    pd.DataFrame({"file": ["0000.dcm"], "text": ["Clear."]}).to_csv(reports, index=False)
    tables = {
        "labels": (LabelTable(table=labels, columns=("ill",), keep=("site",)),),
        "reports": ReportTable(path=reports),
    }
    for _ in range(2):
        build(tmp_path / "s", tmp_path / "c", key_file=tmp_path / "key", **tables)
    assert "gone" not in caplog.text
    labels_only = (LabelTable(table=labels, columns=("ill",)),)
    build(tmp_path / "s", tmp_path / "c", key_file=tmp_path / "key", labels=labels_only)
    assert "all 1 reports and 1 of 1 kept columns that the cohort had are gone" in caplog.text
    assert "labels that the cohort had" not in caplog.text


def test_build__writes_damaged_tables_anew(tmp_path):
    write_series(tmp_path / "s", 1, 2)
    before = build(tmp_path / "s", tmp_path / "c").table
    path = tmp_path / "c" / "index.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"index\.parquet is damaged .*run index again"):
        _ = Cohort.open(tmp_path / "c").table
    pd.testing.assert_frame_equal(build(tmp_path / "s", tmp_path / "c").table, before)


def test_build__names_a_damaged_private_table_and_goes_on_without_it(tmp_path):
    write_series(tmp_path / "s", 1, 2)
    key = tmp_path / "key"
    before = build(tmp_path / "s", tmp_path / "c", key_file=key).table
    path = tmp_path / "c" / "private.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"private\.parquet is damaged .*remove it"):
        build(tmp_path / "s", tmp_path / "c", key_file=key)
    path.unlink()
    after = build(tmp_path / "s", tmp_path / "c", key_file=key).table
    pd.testing.assert_frame_equal(after, before)


def test_build__refuses_a_folder_that_is_something_else(tmp_path):
    write_series(tmp_path / "s", 1, 2)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.doc").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        build(tmp_path / "s", tmp_path / "c")
    for taken in (tmp_path / "c" / "thesis.doc", tmp_path / "c" / "thesis.doc" / "below"):
        with pytest.raises(RunError, match=r"thesis\.doc is a file, but out must be a folder"):
            build(tmp_path / "s", taken)
    with pytest.raises(DataError, match="does not exist"):
        build(tmp_path / "nowhere", tmp_path / "d")


def test_build__private_files_are_the_owners_only(tmp_path):
    write_series(tmp_path / "s", 1, 2)
    cohort = build(tmp_path / "s", tmp_path / "c", key_file=tmp_path / "k" / "key")
    for path in (cohort.folder / "private.parquet", tmp_path / "k" / "key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (cohort.folder / BUILDING).exists()


def test_build__a_shared_key_shares_pseudonyms_and_splits(tmp_path):
    for series in range(6):
        write_series(tmp_path / "s" / str(series), series, 2)
    split = HoldOut(val=0.2, test=0.3)
    key = tmp_path / "key"
    a = build(tmp_path / "s", tmp_path / "a", key_file=key, split=split)
    b = build(tmp_path / "s", tmp_path / "b", key_file=key, split=split)
    c = build(tmp_path / "s", tmp_path / "c", split=split)
    pd.testing.assert_frame_equal(a.table, b.table)
    assert a.content["key_fingerprint"] == b.content["key_fingerprint"]
    assert a.content["key_fingerprint"] != c.content["key_fingerprint"]
    assert not set(a.table["image_id"]) & set(c.table["image_id"])
    assert a.table["split"].value_counts().to_dict() == {"train": 3, "test": 2, "val": 1}
    other = build(tmp_path / "s", tmp_path / "c", key_file=key, split=split)
    assert set(other.table["image_id"]) == set(a.table["image_id"]), "a new key renames all"


def test_build__splits_by_fold_and_by_column(tmp_path):
    for series in range(6):
        write_series(tmp_path / "s" / str(series), series, 2, patient=series // 2)
    folds = build(tmp_path / "s", tmp_path / "a", split=KFold(folds=3)).table
    assert folds.groupby("patient_id")["fold"].nunique().max() == 1
    assert sorted(folds["fold"]) == [0, 0, 1, 1, 2, 2]
    (tmp_path / "l.csv").write_text(
        "series,site\n" + "\n".join(f"1.2.826.0.1.7777.2.1{n:08d},s{n % 2}" for n in range(6))
    )
    labels = (LabelTable(table=tmp_path / "l.csv", columns=("site",)),)
    split = ColumnSplit(column="site", train=("s0",), test=("s1",))
    with pytest.raises(LeakageError, match="3 of 3 patients"):
        build(tmp_path / "s", tmp_path / "b", labels=labels, split=split)
    allowed = split.model_copy(update={"allow_patient_overlap": True})
    cohort = build(tmp_path / "s", tmp_path / "b", labels=labels, split=allowed)
    assert cohort.content["patients_in_several_parts"] == 3


def test_build__splits_by_a_kept_column_whose_values_are_numbers(tmp_path):
    for series in range(3):
        write_series(tmp_path / "s" / str(series), series, 2)
    (tmp_path / "t.csv").write_text(
        "file,ill,year\n0/0000.dcm,0,2019\n1/0000.dcm,1,2020\n2/0000.dcm,1,2021\n"
    )
    (tmp_path / "c.yaml").write_text(
        f"labels: [{{table: {tmp_path / 't.csv'}, keep: [year]}}]\n"
        "split: {kind: column, column: year, train: [2019, 2020], test: [2021]}\n"
    )
    words = ("index", tmp_path / "s", "--out", tmp_path / "c", "--workers", 1)
    assert scoutview(*words, "--config", tmp_path / "c.yaml") == 0
    cohort = Cohort.open(tmp_path / "c")
    pairs = dict(zip(cohort.table["year"], cohort.table["split"], strict=True))
    assert pairs == {"2019": "train", "2020": "train", "2021": "test"}
    assert [label.name for label in cohort.labels] == ["ill"]
    assert len(cohort.where("year == '2020'")) == 1
    with pytest.raises(ConfigError, match=r"'year', which .* keep: \[year\]"):
        build(
            tmp_path / "s",
            tmp_path / "c",
            labels=(LabelTable(table=tmp_path / "t.csv"),),
            split=HoldOut(stratify=("year",)),
        )


def test_build__a_table_that_does_not_fit_is_joined_as_the_error_says(tmp_path, capsys):
    for series in range(3):
        write_series(tmp_path / "s" / str(series), series, 2)
    (tmp_path / "t.csv").write_text(
        "who,file,ill\na,0/0000.dcm,0\nb,8/0008.dcm,1\nc,9/0009.dcm,1\n"
    )
    words = ("index", tmp_path / "s", "--out", tmp_path / "c", "--workers", 1)
    assert scoutview(*words, "--labels", tmp_path / "t.csv") == 2
    told = capsys.readouterr().err.replace("\n", " ")
    found = re.search(r"--config FILE\), as (labels: \[.*?\]) \(instead of --labels\)", told)
    assert found is not None, told
    (tmp_path / "c.yaml").write_text(found[1].replace("...", str(tmp_path / "t.csv")))
    assert scoutview(*words, "--config", tmp_path / "c.yaml") == 0
    assert sorted(Cohort.open(tmp_path / "c").table["ill"].dropna()) == [0]


def test_build__a_sources_split_that_crosses_patients_is_refused(tmp_path):
    for series in range(2):
        write_series(tmp_path / "s" / str(series), series, 2, patient=5)
    uid = "1.2.826.0.1.7777.2.1"
    text = f"series,part\n{uid}00000000,train\n{uid}00000001,test\n"
    (tmp_path / "l.csv").write_text(text)
    labels = (LabelTable(table=tmp_path / "l.csv", split_column="part"),)
    with pytest.raises(LeakageError, match="allow_patient_overlap"):
        build(tmp_path / "s", tmp_path / "c", labels=labels)
    accepted = SourceSplit(allow_patient_overlap=True)
    cohort = build(tmp_path / "s", tmp_path / "c", labels=labels, split=accepted)
    assert sorted(cohort.table["split"]) == ["test", "train"]


def whole(folder):
    """Open a cohort and touch everything in it."""
    cohort = Cohort.open(folder)
    counts = cohort.content["counts"]
    assert len(cohort) == counts["rows"]
    slices = [len(cohort.locators(image)) for image in cohort.table["image_id"]]
    assert slices == list(cohort.table["n_slices"])
    assert len(problems(cohort)) == sum(counts["problems"].values())
    assert len(cohort.boxes) == 0
    assert len(cohort.reports) == 0
    return sorted(slices)


@pytest.mark.slow
@pytest.mark.parametrize("finished_before", [False, True], ids=["new", "changed"])
def test_build__killed_anywhere_is_never_whole_and_goes_on(tmp_path, finished_before):
    source, out, old = tmp_path / "s", tmp_path / "c", tmp_path / "old"
    write_series(source / "a", 1, 3)
    (source / "cut").write_bytes(encoded()[:-100])
    config = IndexConfig(workers=1, key_file=tmp_path / "key")
    if finished_before:
        build_cohort([source], old, config)
        write_series(source / "b", 2, 2)
    want = build_cohort([source], tmp_path / "want", config)
    before, after = [3], whole(want.folder)

    def start():
        shutil.rmtree(out, ignore_errors=True)
        if finished_before:
            shutil.copytree(old, out)

    def check(n):
        if (out / "cohort.json").exists():
            assert whole(out) in ([before, after] if finished_before else [after])
        else:
            with pytest.raises(RunError, match=r"unfinished|is not a cohort"):
                Cohort.open(out)
        got = build_cohort([source], out, config)
        pd.testing.assert_frame_equal(got.table, want.table)
        assert got.content == want.content
        assert not list(out.rglob("*.partial"))
        start()

    def only_reads(arguments):
        return str(arguments[0]).startswith(str(source))

    start()
    # A changed cohort goes through the same operations; every fourth is enough there.
    stride = 4 if finished_before else 1
    deaths = kill_everywhere(
        lambda: build_cohort([source], out, config), check, skip=only_reads, stride=stride
    )
    assert deaths > 30 // stride


_MEASURE = """
import resource, sys
from pathlib import Path
from tests.index import measured
from scoutview.index import build
from scoutview.index.config import IndexConfig
if __name__ == "__main__":
    build.scan, build.group, build.START_SECONDS = measured.scan, measured.group, 0.0
    config = IndexConfig(workers=int(sys.argv[3]))
    build.build_cohort([Path(sys.argv[1])], Path(sys.argv[2]), config)
    measured._write_peak()
"""


def peak_megabytes(source, out, workers):
    """Peak of every process that did something, sorted; shared libraries count in each."""
    peaks = out.with_name(f"{out.name}-peaks")
    peaks.mkdir()
    script = out.with_name(f"{out.name}.py")
    script.write_text(_MEASURE)
    command = [sys.executable, str(script), str(source), str(out), str(workers)]
    root = str(Path(__file__).parents[2])
    wanted = {FOLDER: str(peaks), WORKERS: str(workers), "PYTHONPATH": root}
    subprocess.run(command, check=True, env={**os.environ, **wanted})
    found = [int(file.read_text()) for file in peaks.iterdir()]
    assert len(found) == (1 if workers == 1 else workers + 1), "all processes have worked"
    return sorted(kilobytes / 1024 for kilobytes in found)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two folders of generated files, and what is broken in the larger one."""
    folder = tmp_path_factory.mktemp("many")
    write_many(folder / "few", 2_000)
    return folder, write_many(folder / "many", 20_000)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc for peaks")
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.ddp)])
def test_build__memory_does_not_grow_with_files_and_every_broken_one_is_listed(
    many, tmp_path, workers
):
    folder, broken = many
    small = peak_megabytes(folder / "few", tmp_path / "a", workers)
    large = peak_megabytes(folder / "many", tmp_path / "b", workers)
    cohort = Cohort.open(tmp_path / "b")
    assert sum(broken.values()) == 200
    assert cohort.content["counts"]["problems"] == broken
    assert problems(cohort)["file_id"].nunique() == 200
    assert cohort.table["n_slices"].sum() == 20_000 - 200
    assert all(after <= before + 50 for before, after in zip(small, large, strict=True))


@pytest.mark.parametrize("kind", BROKEN)
def test_build__names_what_is_broken_and_keeps_the_rest(tmp_path, kind):
    write_series(tmp_path / "s", 1, 3)
    breaks, reason = BROKEN[kind]
    (tmp_path / "s" / "x").write_bytes(breaks((tmp_path / "s" / "0001.dcm").read_bytes()))
    cohort = build(tmp_path / "s", tmp_path / "c")
    assert reasons(cohort) == [reason]
    assert list(cohort.table["n_slices"]) == [3]


def test_cohort_json__says_what_is_there(tmp_path):
    write_series(tmp_path / "s", 1, 3)
    cohort = build(tmp_path / "s", tmp_path / "c")
    content = json.loads((cohort.folder / "cohort.json").read_text())
    assert content["schema"] == "cohort"
    assert content["counts"]["kinds"] == {"volume": 1}
    assert content["patient_ids_known"] is True


def test_progress__ends_at_all_files(tmp_path):
    write_series(tmp_path / "s", 1, 3)
    calls = []
    for _ in range(2):
        build_cohort(
            [tmp_path / "s"],
            tmp_path / "c",
            IndexConfig(workers=1),
            progress=lambda done, found: calls.append((done, found)),
        )
        assert calls[-1] == (3, 3)
        assert all(done <= found for done, found in calls)


def test_build__a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "note.txt").write_text("text")
    with pytest.raises(DataError, match="no image"):
        build(tmp_path / "s", tmp_path / "c")
