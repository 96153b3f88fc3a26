import pytest
from tests.cohorts import write_radiographs

from scoutview.api.index import index, open_cohort
from scoutview.base.errors import ConfigError, DataError, RunError
from scoutview.index.config import IndexConfig, KFold

COUNTS = {"train": 8, "val": 4, "test": 4}


@pytest.fixture
def source(tmp_path):
    return write_radiographs(tmp_path / "source" / "set.npz", COUNTS)


def test_index__takes_one_path_or_several_as_text_or_path(source, tmp_path):
    one = index(str(source), str(tmp_path / "one"))
    assert one == tmp_path / "one"
    more = write_radiographs(tmp_path / "more" / "other.npz", {"test": 5}, seed=9)
    several = index([source, str(more.parent)], tmp_path / "several")
    assert len(open_cohort(one)) == 16
    assert len(open_cohort(several)) == 21


def test_index__again_reads_nothing_and_changes_no_pseudonym(source, tmp_path):
    folder = index(source, tmp_path / "c")
    before = open_cohort(folder).table
    seen = []
    index(source, folder, progress=lambda done, found: seen.append((done, found)))
    assert open_cohort(folder).table.equals(before)


def test_index__settings_reach_the_cohort(source, tmp_path):
    config = IndexConfig(split=KFold(folds=3), modality="DX", label_names={"label": "sick"})
    table = open_cohort(index(source, tmp_path / "c", config=config)).table
    assert set(table["modality"]) == {"DX"}
    assert set(table.loc[table["fold"] >= 0, "fold"]) == {0, 1, 2}
    assert set(table["sick"]) == {0.0, 1.0}


def test_index__refuses_missing_sources_and_foreign_folders(source, tmp_path):
    with pytest.raises(DataError):
        index(tmp_path / "nowhere", tmp_path / "c")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(RunError):
        index(source, foreign)
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_open_cohort__takes_folder_or_cohort_and_an_expression(source, tmp_path):
    folder = index(source, tmp_path / "c")
    whole = open_cohort(str(folder))
    part = open_cohort(whole, "split == 'test' and label == 1")
    assert 0 < len(part) <= 4
    assert set(part.table["split"]) == {"test"}
    with pytest.raises(ConfigError):
        open_cohort(folder, "__import__('os')")
    with pytest.raises(RunError, match="not a cohort"):
        open_cohort(tmp_path)
