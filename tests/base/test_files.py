import json
import os
from pathlib import Path

import pytest
from tests.processes import kill_everywhere

from scoutview.base.errors import RunError
from scoutview.base.files import (
    atomic_writer,
    read_json,
    remove_partial,
    require_empty,
    write_json,
    write_text,
)


def test_atomic_writer__a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "state.txt"
    target.write_text("old")
    deaths = kill_everywhere(
        lambda: write_text(target, "new" * 1000),
        lambda n: check_whole(target),
    )
    assert deaths >= 4  # open, write, fsync, replace at least
    assert target.read_text() == "new" * 1000
    assert list(tmp_path.glob(".*.partial"))  # the deaths left some
    remove_partial(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["state.txt"]


def check_whole(target: Path) -> None:
    assert target.read_text() in ("old", "new" * 1000)


def test_atomic_writer__an_exception_keeps_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "state.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_then_fail(target)
    assert os.listdir(tmp_path) == ["state.txt"]
    assert target.read_text() == "old"


def write_then_fail(target: Path) -> None:
    with atomic_writer(target) as stream:
        stream.write(b"new")
        stream.flush()
        raise ZeroDivisionError


def test_atomic_writer__sets_the_mode_before_the_first_byte(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "key", mode=0o600) as stream:
        partial = next(tmp_path.glob(".*.partial"))
        assert partial.stat().st_mode & 0o777 == 0o600
        stream.write(b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_json__round_trip_keeps_content_and_version(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2]}, schema="thing", version=3)
    assert read_json(tmp_path / "a.json", schema="thing", version=3) == {
        "x": [1, 2],
        "schema_version": 3,
    }


@pytest.mark.parametrize(
    ("schema", "version", "match"),
    [("other", 3, "expected schema 'other', got 'thing'"), ("thing", 2, "newer than the 2")],
)
def test_json__another_schema_or_a_newer_version_is_an_error(
    tmp_path: Path, schema: str, version: int, match: str
) -> None:
    write_json(tmp_path / "a.json", {}, schema="thing", version=3)
    with pytest.raises(RunError, match=match):
        read_json(tmp_path / "a.json", schema=schema, version=version)


def test_json__a_file_cut_short_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"schema": "thing"})[:-4])
    with pytest.raises(RunError, match=r"a\.json"):
        read_json(tmp_path / "a.json", schema="thing", version=1)


def test_require_empty__an_occupied_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").touch()
    with pytest.raises(RunError, match="run is not empty"):
        require_empty(tmp_path / "run")
    assert require_empty(tmp_path / "fresh").is_dir()
