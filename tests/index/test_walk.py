import os

import pytest

from scoutview.base.errors import DataError
from scoutview.index.walk import walk


def names(*sources, skip=()):
    return sorted(file.name for file in walk(list(sources), skip))


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "top"
    for name in ("a/1", "a/deep/2", "b/3", "b/.3.tmp.partial"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    return top


def test_walk__finds_every_file_once(tree):
    assert names(tree) == ["top/a/1", "top/a/deep/2", "top/b/3"]
    assert names(tree, tree / "a", tree / "b" / "3") == names(tree)
    assert names(tree / "b" / "3") == ["3"]
    assert names(tree, skip=[tree / "a"]) == ["top/b/3"]


def test_walk__follows_links_but_not_in_circles(tree, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "4").write_text("4")
    (tree / "0_link").symlink_to(tmp_path / "other")
    (tree / "0_again").symlink_to(tree / "a")
    (tree / "a" / "up").symlink_to(tree)
    (tree / "b" / "gone").symlink_to(tree / "nothing")
    assert names(tree) == ["top/0_link/4", "top/a/1", "top/a/deep/2", "top/b/3", "top/b/gone"]


def test_walk__tells_equal_source_names_apart(tmp_path):
    for folder in ("x/images", "y/images"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1").write_text("")
    assert names(tmp_path / "x/images", tmp_path / "y/images") == ["images#2/1", "images/1"]


def test_signature__changes_with_size_time_and_name(tree):
    def signatures():
        return {file.name: file.signature for file in walk([tree])}

    first = signatures()
    assert first == signatures()
    assert len(set(first.values())) == 3
    os.utime(tree / "a" / "1", ns=(1, 1))
    second = signatures()
    assert {name for name in first if first[name] != second[name]} == {"top/a/1"}


def test_walk__refuses_what_does_not_exist(tree, tmp_path):
    with pytest.raises(DataError, match="Source 1 of 1"):
        names(tmp_path / "nowhere")
    with pytest.raises(DataError, match="at least one"):
        names()
    with pytest.raises(DataError, match="Source 2 of 2"):
        names(tree, tmp_path / "nowhere")  # "nowhere" sorts before "top"
