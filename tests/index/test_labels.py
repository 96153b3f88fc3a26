import numpy as np
import pandas as pd
import pytest

from scoutview.base.errors import ConfigError, DataError, JoinError
from scoutview.index.config import LabelColumn, LabelTable
from scoutview.index.join import Keys
from scoutview.index.labels import Label, from_source, join_labels, target_names, targets

NAMES = ["src/a/001.png", "src/a/002.png", "src/b/003.png", "src/b/004.png"]


@pytest.fixture
def keys():
    return Keys(
        pd.DataFrame(
            {
                "image_id": ["i1", "i2", "i3", "i4"],
                "name": NAMES,
                "image": ["1.2.1", "1.2.2", "1.2.3", "1.2.4"],
                "series": ["9.1", "9.1", "9.2", "9.2"],
                "study": ["8.1"] * 4,
                "patient": ["P-1", "P-1", "P-2", "P-2"],
            }
        )
    )


def table(tmp_path, text, **settings):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return LabelTable(table=path, **settings)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (["a/001.png", "a/002.png", "b/003.png", "b/004.png"], "path"),
        (["elsewhere/001.png", "002.png", "./003.png", "x\\004.png"], "name"),
        (["001", "002", "003", "004"], "stem"),
        (["1.2.1", "1.2.2", "1.2.3", "1.2.4"], "image"),
    ],
)
def test_join__any_id_of_an_image_matches(tmp_path, keys, ids, kind):
    text = "id,sick\n" + "\n".join(f"{name},{n % 2}" for n, name in enumerate(ids))
    joined = join_labels(table(tmp_path, text), keys)
    assert joined.match.kind == kind
    assert joined.columns["sick"].to_dict() == {"i1": 0, "i2": 1, "i3": 0, "i4": 1}


@pytest.mark.parametrize(
    ("text", "kind", "sick"),
    [
        ("who,sick\nP-1,1\nP-2,0\n", "patient", [1, 1, 0, 0]),
        ("series,sick\n9.2,1\n", "series", [None, None, 1, 1]),
        ("study,sick\n8.1,1\n", "study", [1, 1, 1, 1]),
    ],
)
def test_join__a_patients_label_goes_to_all_images(tmp_path, keys, text, kind, sick):
    joined = join_labels(table(tmp_path, text, columns=("sick",)), keys)
    assert joined.match.kind == kind
    got = joined.columns["sick"].to_dict()
    assert [got.get(f"i{n}") for n in (1, 2, 3, 4)] == sick


def test_join__reads_missing_and_uncertain(tmp_path, keys):
    text = "id,sick,note\n001,u,x\n002,-1.0,y\n003,,z\n004,1,w\n"
    joined = join_labels(table(tmp_path, text), keys)
    assert joined.labels == [Label("sick", "binary")]
    np.testing.assert_equal(joined.columns["sick"].to_numpy(), [-1, -1, np.nan, 1])


def test_join__splits_cells_of_several_findings(tmp_path, keys):
    text = "id,found\n001,Mass|Nodule\n002,No Finding\n003,Nodule\n004,\n"
    column = LabelColumn(name="found", kind="multilabel")
    joined = join_labels(table(tmp_path, text, columns=(column,)), keys)
    np.testing.assert_equal(
        joined.columns[["Mass", "Nodule"]].to_numpy(), [[1, 1], [0, 0], [0, 1], [np.nan, np.nan]]
    )


def test_join__reads_tsv_semicolons_and_parquet_alike(tmp_path, keys):
    frame = pd.DataFrame({"id": ["001", "002"], "sick": [1, 0]})
    frame.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "t.csv", sep=";", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.tsv", "t.csv", "t.parquet"):
        joined = join_labels(LabelTable(table=tmp_path / name), keys)
        assert joined.columns["sick"].to_dict() == {"i1": 1.0, "i2": 0.0}, name


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_join__missing_cells_are_empty_text(tmp_path, keys, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pd.DataFrame({"id": ["001", "002"], "found": ["Mass", None]}).to_parquet(path)
    else:
        path.write_text("id,found\n001,Mass\n002\n".replace(",", ",\t"[name.endswith("tsv")]))
    column = LabelColumn(name="found", kind="multilabel")
    joined = join_labels(LabelTable(table=path, columns=(column,)), keys)
    np.testing.assert_equal(joined.columns["Mass"].to_numpy(), [1, np.nan])


@pytest.mark.parametrize(
    "text",
    [
        "id\tsick\n001\t1\n002\t0\n",
        "id;sick;today, 9 h\n001;1;a\n002;0;b\n",
        "id;sick;size\n001;1;0,5\n002;0;1,5\n",
        "id,sick,found\n001,1,Mass;Nodule\n002,0,Mass;Nodule\n",
        'id,sick,text\n001,1,"no; nothing,\nnothing; at; all"\n002,0,no\n',
        "\ufeffid;sick\n001;1\n\n002;0\n",
        "id;sick\n" + "001;1\n002;0\n" * 20_000,
    ],
    ids=["tabs", "comma in heading", "decimal commas", "findings", "lines", "mark", "long"],
)
def test_join__finds_the_delimiter_of_a_csv(tmp_path, keys, text):
    assert join_labels(table(tmp_path, text), keys).columns["sick"].to_dict() == {"i1": 1, "i2": 0}


def test_join__reads_compressed_tables(tmp_path, keys):
    frame = pd.DataFrame({"id": ["001", "002"], "sick": [1, 0]})
    frame.to_csv(tmp_path / "t.csv.gz", sep=";", index=False)
    joined = join_labels(LabelTable(table=tmp_path / "t.csv.gz"), keys)
    assert joined.columns["sick"].to_dict() == {"i1": 1, "i2": 0}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le"])
def test_join__other_encodings_are_told_from_damage(tmp_path, keys, encoding):
    path = tmp_path / "l.csv"
    path.write_bytes("id;sick;größe\n001;1;2\n002;0;3\n".encode(encoding))
    with pytest.raises(JoinError, match="save it as UTF-8"):
        join_labels(LabelTable(table=path), keys)


def test_join__a_row_longer_than_the_heading_does_not_shift_columns(tmp_path, keys):
    with pytest.raises(JoinError, match="more cells than its heading"):
        join_labels(table(tmp_path, "id,sick\n001,1,0\n002,0,1\n"), keys)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["1", "2", "3", "4"], "of column 'id' have lost their leading zeros"),
        (["1.png", "2.png", "3.png", "4.png"], "of column 'id' have lost their leading zeros"),
        (['="001"', '="002"', '="003"', '="004"'], 'match without the =" and "'),
        (["x1", "x2", "x3", "x4"], "belong together"),
    ],
)
def test_join__says_what_excel_did_to_the_ids(tmp_path, keys, ids, said):
    path = tmp_path / "l.csv"
    pd.DataFrame({"id": ids, "sick": [0, 1, 0, 1]}).to_csv(path, index=False)
    with pytest.raises(JoinError, match=said):
        join_labels(LabelTable(table=path), keys)


@pytest.mark.parametrize(
    "text",
    [
        "001,Mueller Hans,1\n002,Schmidt Eva,0\n003,Klein Jo,0\n004,Klein Al,1\n",
        "Mueller Hans;b/003.png;1;1\nSchmidt Eva;a/001.png;0;1\n",
        "000,Mueller Hans,1\n001,Schmidt Eva,0\n002,Klein Jo,0\n",  # the first is no image
        "001,Mueller Hans,1\n",
    ],
)
def test_join__a_table_without_a_heading_is_an_error(tmp_path, keys, text, caplog):
    with pytest.raises(JoinError, match="has no heading") as error:
        join_labels(table(tmp_path, text), keys)
    for told in (str(error.value), caplog.text):
        assert not any(word in told for word in ("Mueller", "Schmidt", "000", "001", "003"))


def test_join__a_heading_may_be_the_name_of_a_file(tmp_path):
    names = ["s/p1/image.nii", "s/p2/image.nii", "s/0.png", "s/1.png"]
    frame = pd.DataFrame({"image_id": ["i1", "i2", "i3", "i4"], "name": names})
    keys = Keys(frame.assign(image="", series="", study="", patient=""))
    text = "image,1\np1/image.nii,1\np2/image.nii,0\n0.png,1\n"
    joined = join_labels(table(tmp_path, text), keys)
    assert joined.columns["1"].to_dict() == {"i1": 1, "i2": 0, "i3": 1}


def test_join__a_column_that_stands_twice_is_an_error(tmp_path, keys):
    with pytest.raises(JoinError, match="has the column 'sick' more than once"):
        join_labels(table(tmp_path, "id,sick,sick\n001,1,0\n002,0,1\n"), keys)


def test_join__no_match_shows_masked_examples_and_the_nearest_column(tmp_path, keys):
    text = "person,file,sick\nMiller-77,001,1\nSmith-12,002,0\nBauer-3,003,0\nKlein-4,004,1\n"
    with pytest.raises(JoinError) as error:
        join_labels(table(tmp_path, text, id_column="person"), keys)
    message = str(error.value)
    assert "AAAAAA-99, AAAAA-99, AAAAA-9" in message
    assert "999.AAA" in message
    assert "'file'" in message
    assert "Miller" not in message
    assert "001" not in message


def test_join__without_any_matching_column_is_an_error(tmp_path, keys):
    with pytest.raises(JoinError, match="belong together"):
        join_labels(table(tmp_path, "id,sick\nx,1\ny,0\n"), keys)


def test_join__an_accidental_match_of_few_values_is_not_trusted(tmp_path, keys):
    text = "who,sick,grade\n" + "\n".join(f"x{n},0,{'001' if n == 0 else n}" for n in range(50))
    with pytest.raises(JoinError, match="comes nearest"):
        join_labels(table(tmp_path, text), keys)


def test_join__two_values_for_one_image_are_an_error(tmp_path, keys):
    with pytest.raises(JoinError, match=r"more than once .* 999"):
        join_labels(table(tmp_path, "id,sick\n001,1\n001,0\n002,0\n"), keys)
    text = "who,file,sick\nP-1,001,1\nP-1,002,0\nP-2,003,0\n"
    with pytest.raises(JoinError, match=r"keep one row per image\. Column 'file' comes nearest"):
        join_labels(table(tmp_path, text, id_column="who"), keys)


def test_join__rows_that_repeat_an_image_are_counted(tmp_path, keys):
    same = join_labels(table(tmp_path, "id,sick\n001,1\n001,1\n002,0\n001,1\n"), keys)
    assert len(same.columns) == 2
    assert same.match.repeated == 2
    patients = join_labels(table(tmp_path, "who,sick\nP-1,1\nP-2,0\nP-1,1\n"), keys)
    assert patients.match.repeated == 1, "one row, though it stands for two images"


def test_join__a_name_of_several_images_is_an_error(tmp_path):
    frame = pd.DataFrame({"image_id": ["i1", "i2"], "name": ["s/a/1.png", "s/b/1.png"]})
    keys = Keys(frame.assign(image="", series="", study="", patient=""))
    with pytest.raises(JoinError, match="several images"):
        join_labels(table(tmp_path, "id,sick\n1.png,1\n"), keys)


def test_join__unknown_values_are_an_error(tmp_path, keys):
    column = LabelColumn(name="sick", kind="binary")
    with pytest.raises(JoinError, match=r"unknown values, as AAAAA\?"):
        join_labels(table(tmp_path, "id,sick\n001,maybe?\n002,1\n", columns=(column,)), keys)
    column = LabelColumn(name="type", classes=("glioma", "other"))
    with pytest.raises(JoinError, match="Known: glioma, other"):
        join_labels(table(tmp_path, "id,type\n001,gliom\n", columns=(column,)), keys)
    text = "id,type,kind,grade\n001,gliom,glioma,2\n002,?,no,3\n"
    with pytest.raises(JoinError, match=r"Column 'kind' comes nearest \(50% known values\)"):
        join_labels(table(tmp_path, text, columns=(column,)), keys)


def test_join__one_bad_cell_does_not_drop_a_label(tmp_path, keys, caplog):
    text = "id,ill,sick,site\n001,1,1,a\n002,0,ja 7,b\n003,1,0,c\n004,0,,d\n"
    with pytest.raises(JoinError, match=r"'sick' .* as AA 9\..*'ill' comes nearest \(100%"):
        join_labels(table(tmp_path, text), keys)
    joined = join_labels(table(tmp_path, text, columns=("ill",)), keys)
    assert joined.ignored == ["sick", "site"]
    assert not caplog.records, "who names columns knows what is left out"
    # Half of the known cells is not more than half.
    text = "id,ill,grade\n001,1,1\n002,0,2\n003,1,\n004,0,\n"
    assert join_labels(table(tmp_path, text), keys).ignored == ["grade"]
    assert "not taken as labels: grade" in caplog.text


def test_join__a_constant_column_is_no_label_by_itself(tmp_path, keys, caplog):
    rows = ["001,P-1,axial,512,1,-1024", "002,P-1,axial,512,1,-1024"]
    rows += ["003,P-2,coronal,512,1,-1024", "004,P-2,coronal,512,1.0,-1024"]
    text = "file,patient_id,plane,rows,rescale_slope,rescale_intercept\n" + "\n".join(rows)
    with pytest.raises(JoinError) as error:
        join_labels(table(tmp_path, text), keys)
    assert "rescale_slope (one value)" in str(error.value), "1 and 1.0 are one"
    joined = join_labels(table(tmp_path, text, patient_column="patient_id"), keys)
    assert joined.labels == []
    plane = LabelColumn(name="plane", kind="multiclass")
    chosen = join_labels(table(tmp_path, text, columns=(plane,)), keys)
    assert chosen.labels == [Label("plane", "multiclass", ("axial", "coronal"))]
    for told in (str(error.value), caplog.text):
        assert "plane (2 classes), rows (one value)" in told
        assert "columns: [{name: plane, kind: multiclass}]" in told
    forced = join_labels(table(tmp_path, text, columns=("rescale_slope",)), keys)
    assert [label.name for label in forced.labels] == ["rescale_slope"]


def test_join__free_text_is_no_label(tmp_path, keys):
    text = "id,story\n001," + "a long story " * 8 + "\n002,short\n"
    with pytest.raises(JoinError, match="free text"):
        join_labels(table(tmp_path, text, columns=("story",)), keys)


def test_join__a_label_must_not_hide_a_column_of_the_index(tmp_path, keys):
    with pytest.raises(JoinError, match="name of a column of the index"):
        join_labels(table(tmp_path, "id,modality\n001,1\n", columns=("modality",)), keys)


def test_join__a_wrong_column_names_the_nearest(tmp_path, keys):
    with pytest.raises(JoinError, match="Did you mean 'sick'"):
        join_labels(table(tmp_path, "id,sick\n001,1\n002,1\n", columns=("sik",)), keys)


def test_join__reads_patients_and_splits(tmp_path, keys):
    text = "id,who,part\n001,A,Training\n002,A,train\n003,B,validation\n004,C,test\n"
    joined = join_labels(table(tmp_path, text, patient_column="who", split_column="part"), keys)
    assert list(joined.splits) == ["train", "train", "val", "test"]
    assert list(joined.patients) == ["A", "A", "B", "C"]
    with pytest.raises(JoinError, match="train, val or test"):
        join_labels(table(tmp_path, "id,part\n001,holdout\n", split_column="part"), keys)


@pytest.fixture
def nameless(keys):
    """Ids of images of which only the last has a patient."""
    frame = keys.table("name")[["image_id"]].assign(name=NAMES, image="", series="", study="")
    return Keys(frame.assign(patient=["", "", "", "P-2"]))


@pytest.mark.parametrize("name", ["patient_id", "PatientID", "Patient ID", "subject", "pid"])
def test_join__a_column_named_patient_is_taken_where_files_name_none(
    tmp_path, nameless, caplog, name
):
    text = f"file,{name},sick\n001,0,1\n002,1,0\n003,nan,1\n004,1,0\n"
    joined = join_labels(table(tmp_path, text), nameless)
    assert joined.patients.to_dict() == {"i1": "0", "i2": "1"}, "nan is none; the last has its own"
    assert [label.name for label in joined.labels] == ["sick"], "patients 0 and 1 are no label"
    assert f"column '{name}' of the label table is taken as the patient of 2 images" in caplog.text
    assert 'patient_column: "",' not in caplog.text
    assert 'as labels: [{table: ..., patient_column: ""}]' in caplog.text
    assert join_labels(table(tmp_path, text), nameless, known=("i1", "i2", "i3")).patients is None


def test_join__a_column_named_patient_is_not_taken_where_it_is_not_wanted(tmp_path, keys, nameless):
    text = "file,patient,subject,sick\n001,a,x,1\n002,a,y,0\n003,b,y,1\n"
    assert join_labels(table(tmp_path, text), keys).patients is None, "files have patients"
    for settings in ({"patient_column": ""}, {"keep": ("patient", "subject")}):
        assert join_labels(table(tmp_path, text, **settings), nameless).patients is None
    for settings in ({"patient_column": "subject"}, {"keep": ("patient",)}):
        joined = join_labels(table(tmp_path, text, **settings), nameless)
        assert joined.patients.to_list() == ["x", "y", "y"]
    alone = join_labels(table(tmp_path, "file,patient\n001,a\n002,a\n"), nameless)
    assert alone.patients.to_list() == ["a", "a"]
    with pytest.raises(JoinError, match="No column of the label table holds 0 and 1"):
        join_labels(table(tmp_path, "file,patient,grade\n001,a,x\n002,a,y\n"), nameless)
    with pytest.raises(JoinError, match="No column of the label table holds 0 and 1"):
        join_labels(table(tmp_path, "file,grade\n001,x\n", patient_column=""), nameless)
    doubled = "file,subject,sick\n001,chest,1\n001,heart,1\n002,heart,0\n"
    with pytest.raises(JoinError, match=r'different values of .*patient_column: ""'):
        join_labels(table(tmp_path, doubled), nameless)


def test_join__a_column_of_train_and_test_is_no_class(tmp_path, keys, caplog):
    text = "file,sick,split,site\n001,1,train,a\n002,0,Val,b\n003,1,test,a\n004,0,train,b\n"
    join_labels(table(tmp_path, text), keys)
    assert "not taken as labels: split (train, val, test), site (2 classes)." in caplog.text
    assert "split_column: split}] (instead of --labels), with --split source." in caplog.text
    assert "name: split" not in caplog.text
    caplog.clear()
    join_labels(table(tmp_path, text, split_column="split"), keys)
    assert "split_column" not in caplog.text


@pytest.mark.parametrize(
    ("policy", "expected"), [("ones", 1.0), ("zeros", 0.0), ("ignore", np.nan)]
)
def test_targets__uncertain_counts_as_the_policy_says(policy, expected):
    frame = pd.DataFrame({"sick": [1.0, 0.0, -1.0, np.nan], "type": ["a", "", "b", "a"]})
    labels = [Label("sick", "binary"), Label("type", "multiclass", ("a", "b"))]
    np.testing.assert_equal(
        targets(frame, labels, policy),
        [[1, 1, 0], [0, np.nan, np.nan], [expected, 0, 1], [np.nan, 1, 0]],
    )
    assert target_names(labels) == ["sick", "type=a", "type=b"]
    assert frame["sick"][2] == -1, "the table itself must not change"


def test_targets__refuses_unknown_policies_and_classes():
    frame = pd.DataFrame({"type": ["a", "c"]})
    label = Label("type", "multiclass", ("a", "b"))
    with pytest.raises(ConfigError, match="'ones'"):
        targets(frame, [label], "one")
    with pytest.raises(DataError, match="1 values"):
        targets(frame, [label], "ones")


def test_from_source__tells_binary_from_classes():
    labels, columns = from_source(
        {"sick": np.array([0, 1, np.nan]), "organ": np.array([2.0, np.nan, 10.0])}
    )
    assert labels == [Label("sick", "binary"), Label("organ", "multiclass", ("2", "10"))]
    assert list(columns["organ"]) == ["2", "", "10"]


def test_keep__takes_categories_as_words_for_the_images(tmp_path, keys):
    text = "id,sick,year,site\n001,0,2019, A\n002,1,2019,na\n003,1,2020,\n"
    joined = join_labels(table(tmp_path, text, keep=("year", "site")), keys)
    assert [label.name for label in joined.labels] == ["sick"]
    assert joined.kept.to_dict("list") == {"year": ["2019", "2019", "2020"], "site": ["A", "", ""]}
    assert joined.kept.index.tolist() == ["i1", "i2", "i3"]
    assert joined.ignored == []
    alone = join_labels(table(tmp_path, "id,site\n001,A\n", keep=("site",)), keys)
    assert (alone.labels, alone.kept["site"].tolist()) == ([], ["A"])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("id", "neither ids, splits nor labels, got 'id'"),
        ("sick", "neither ids, splits nor labels, got 'sick'"),
        ("person", "neither ids, splits nor labels, got 'person'"),
        ("note", "looks like free text or ids"),
        ("kind", "has the name of a column of the index"),
        ("years", "Did you mean 'year'"),
    ],
)
def test_keep__refuses_ids_labels_and_free_text(tmp_path, keys, keep, message):
    long = "word " * 20
    text = f"id,sick,person,year,kind,note\n001,0,a,1,x,{long}\n002,1,b,2,y,{long}\n"
    settings = {"columns": ("sick",), "patient_column": "person", "keep": (keep,)}
    with pytest.raises(JoinError, match=message):
        join_labels(table(tmp_path, text, **settings), keys)
