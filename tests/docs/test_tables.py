"""The generated tables say what the registries say, and the nav of the documentation is whole."""

import subprocess
import sys
from pathlib import Path

import yaml

from scoutview.methods import METHODS
from scoutview.tasks import TASKS

ROOT = Path(__file__).parents[2]


def test_tables__are_up_to_date():
    script = ROOT / "tools" / "generate_tables.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}Run: python tools/generate_tables.py"


def test_tables__name_every_method_and_task():
    for file in (ROOT / "README.md", ROOT / "docs" / "methods" / "index.md"):
        text = file.read_text(encoding="utf-8")
        missing = [name for name in (*METHODS, *TASKS) if f"`{name}`" not in text]
        assert not missing, f"{file.name}: {missing}"


def test_methods__have_a_page_each_and_no_other_pages_exist():
    pages = {page.stem for page in (ROOT / "docs" / "methods").glob("*.md")} - {"index"}
    assert pages == set(METHODS)


def test_nav__names_files_that_exist():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry if isinstance(entry, list) else list(dict(entry).values())  # type: ignore[call-overload]
        return [file for value in values for file in files(value)]

    for file in files(yaml.safe_load(text)["nav"]):
        if not file.startswith("reference/"):  # written by the hook
            assert (ROOT / "docs" / file).is_file(), file


def test_decisions__are_all_listed():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "index.md").read_text(encoding="utf-8")
    for page in folder.glob("0*.md"):
        text = page.read_text(encoding="utf-8")
        assert f"({page.name})" in index
        for part in ("Status: ", "## Context", "## Decision", "## Consequences"):
            assert part in text, f"{page.name}: {part}"


def test_documentation__builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "how-to/own-dicom-folder/index.html", "methods/simclr/index.html"):
        assert (tmp_path / "site" / page).is_file()
    reference = (tmp_path / "site" / "reference" / "room_store" / "index.html").read_text("utf-8")
    assert "find_duplicates" in reference
