"""The project as a whole: size, wheel, provenance of files, nothing of the machine inside."""

import fnmatch
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "tests" / "assets"
LICENCES = ("ct_head/LICENSE", "dicom_zoo/LICENSE.pydicom", "dicom_zoo/LICENSE.pydicom-data")
LARGEST_TREE = 45 * 10**6
WORDS_OF_A_MACHINE = re.compile(rb"(?<![\w.])/(?:root|work|(?:home|Users)/(?!someone)\w+)/")
"""Beginnings of paths that exist on one machine only; tests plant those of "someone"."""


def tracked():
    """Files of the project: what Git tracks, and what it would not ignore."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs Git and the project's repository")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    listed = subprocess.run([*command, "--exclude-standard"], capture_output=True, check=True)
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_tree__is_at_most_45_megabytes():
    sizes = {path: path.stat().st_size for path in tracked()}
    largest = sorted(sizes, key=sizes.__getitem__)[-5:]
    assert sum(sizes.values()) <= LARGEST_TREE, [str(path) for path in largest]


def test_root__holds_nothing_that_a_download_left():
    named = {"Makefile", "NOTICE", "LICENSE"}
    kinds = {".md", ".toml", ".txt", ".yml", ".importlinter", ".gitignore"}
    at_root = [path.name for path in tracked() if path.parent == ROOT]
    assert [n for n in at_root if n not in named and (Path(n).suffix or n) not in kinds] == []


def test_tree__names_no_place_of_a_machine():
    found = []
    for path in tracked():
        hit = WORDS_OF_A_MACHINE.search(path.read_bytes())
        text = path.suffix not in {".dcm", ".png", ".jpg", ".gz", ".npz", ".zip", ".parquet"}
        if hit and text and path != Path(__file__):
            found.append(f"{path.relative_to(ROOT)}: {hit[0].decode()}")
    assert found == []


def patterns():
    """What the table of the assets' README covers, and the licence of each row."""
    text = (ASSETS / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    return {name: row[3] for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


def test_assets__every_file_has_a_source_and_a_licence():
    known = patterns()
    used = set()
    for path in tracked():
        if ASSETS not in path.parents:
            continue
        name = path.relative_to(ASSETS).as_posix()
        depth = name.count("/")
        hits = [p for p in known if p.count("/") == depth and fnmatch.fnmatch(name, p)]
        assert hits, f"{name} stands in no row of tests/assets/README.md"
        used.update(hits)
    assert used == set(known), "a row covers nothing"


def test_notice__names_every_folder_of_assets_and_the_demo_data():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for folder in sorted(path.name for path in ASSETS.iterdir() if path.is_dir()):
        assert f"{folder}/" in notice
    for path in tracked():
        if path.parent == ROOT / "src" / "scoutview" / "demo_data":
            assert path.name in notice or path.suffix == ".md"
    for licence in LICENCES:
        assert (ASSETS / licence).is_file()
        assert Path(licence).name in notice


@pytest.mark.slow
def test_wheel__holds_all_that_an_installation_needs(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    done = subprocess.run(
        [*command, str(tmp_path), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("scoutview-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        about = archive.read(metadata).decode()
    source = {
        path.relative_to(ROOT / "src").as_posix()
        for path in tracked()
        if ROOT / "src" / "scoutview" in path.parents
    }
    assert source <= names, sorted(source - names)[:5]
    assert "scoutview/py.typed" in names
    assert "scoutview/demo_data/pneumoniamnist.npz" in names
    assert "scoutview/results/page.html.j2" in names
    assert not [name for name in names if name.startswith("tests")]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert "License-Expression: Apache-2.0" in about
