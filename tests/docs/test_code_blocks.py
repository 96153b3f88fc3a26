"""The code in README and docs does what it says: Python runs, commands parse, quick ones run.

Every page has its own temporary folder; its blocks run in order and share their names. A block
whose first line is a comment with a file name, `# name.py` or `# name.yaml`, is written there
instead, so that later blocks can import or read it.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import yaml

from scoutview.cli import app
from scoutview.cli.terminal import settings
from scoutview.index.config import IndexConfig
from scoutview.methods import METHODS

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "tests" / "assets"
BUNDLED = ROOT / "src" / "scoutview" / "demo_data"
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "reference" not in p.parts),
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

QUICK = ("index", "show")
"""Verbs that run, where what they read is there; the others are only parsed."""

SMALLER = {
    "SAMPLES = 20_000": "SAMPLES = 256",
    "warmup_epochs=1": "warmup_epochs=0.1",
    "seeds=(0, 1, 2, 3, 4)": "seeds=(0, 1, 2)",
}
"""What the pages write, and what the tests run instead."""


class Block(NamedTuple):
    """One piece of code of a page."""

    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in _BLOCK.finditer(text)
    ]


def commands(code: str) -> Iterator[list[str]]:
    """Words of each command; lines that end with a backslash go on."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=\S*", words[0]):  # as OMP_NUM_THREADS=1
            words = words[1:]
        if "scoutview" in words:  # also after srun or torchrun
            yield words[words.index("scoutview") + 1 :]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prepare_readme(folder: Path) -> None:
    (folder / "scans").mkdir()
    shutil.copy(BUNDLED / "pneumoniamnist.npz", folder / "scans")


def prepare_dicom(folder: Path) -> None:
    (folder / "scans").mkdir()
    shutil.copy(ASSETS / "ct_head" / "ct_head_tilted.zip", folder / "scans")
    shutil.copytree(ASSETS / "dicom_zoo" / "files", folder / "scans" / "various")
    shutil.copytree(ASSETS / "radiographs", folder / "radiographs")
    labels = pd.read_csv(ASSETS / "radiographs" / "labels.csv")
    exams = labels[["image", "patient_id"]].assign(year=[2019, 2020, 2020, 2021])
    exams.to_csv(folder / "exams.csv", index=False)


PREPARED: dict[str, Callable[[Path], None]] = {
    "README.md": prepare_readme,
    "docs/how-to/own-dicom-folder.md": prepare_dicom,
}


def run_python(code: str, names: dict[str, object], where: str) -> None:
    for written, smaller in SMALLER.items():
        code = code.replace(written, smaller)
    exec(compile(code, where, "exec"), names)


def run_command(words: list[str], folder: Path) -> None:
    """Parse a command; run it if it is quick and all that it reads is there."""
    app.parse_args(words, print_error=False, exit_on_error=False)
    reads = [*words[1:2], *(word for word in words if word.endswith((".csv", ".yaml")))]
    if words[0] in QUICK and reads and all((folder / name).exists() for name in reads):
        with pytest.raises(SystemExit) as ended:  # as a command ends in the shell
            app(words, print_error=False, exit_on_error=False)
        assert not ended.value.code, words


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder with importable modules; registries are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    methods, modules = dict(METHODS), set(sys.modules)
    yield tmp_path
    METHODS.clear()
    METHODS.update(methods)
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.timeout(600)  # all pages take 40 s on a quiet core
@pytest.mark.usefixtures("quarter_of_the_set")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=named)
def test_page__code_runs_and_commands_parse(page, folder):
    PREPARED.get(named(page), lambda folder: None)(folder)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        where = f"{named(page)}:{block.line}"
        first = block.code.partition("\n")[0]
        file = re.fullmatch(r"# ([\w-]+\.(?:py|yaml))", first)
        if file:
            (folder / file[1]).write_text(block.code, encoding="utf-8")
        if block.language == "python" and not file:
            run_python(block.code, names, where)
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict), where
        elif block.language == "bash":
            for words in commands(block.code):
                run_command(words, folder)


def test_smaller__replaces_what_pages_write():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for written in SMALLER:
        assert written in text, f"{written!r} stands in no page; remove it from SMALLER."


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links__lead_somewhere(page):
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" in target or "reference/" in target:
            continue
        assert (page.parent / target).exists(), f"{named(page)} links to {target}"


def test_split__what_page_and_help_write_makes_settings(capsys):
    page = (ROOT / "docs/how-to/own-dicom-folder.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `(--[^`]+)` \|$", page, re.MULTILINE)
    app(["index", "--help"], print_error=False, exit_on_error=False, result_action="return_value")
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    setting, flag = re.search(r"One setting, as (\S+) beside (--split \w+)\.", said).groups()
    for written in (*rows, f"{flag} --set {setting}"):
        words = ["index", "scans", "--out", "cohort", *shlex.split(written)]
        _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        given = bound.arguments
        split = {"split.kind": given["split"]} if "split" in given else {}
        config = settings(IndexConfig, None, split, given.get("set_", ()))
        assert config.split.kind == given["split"], written
    assert len(rows) >= 3
