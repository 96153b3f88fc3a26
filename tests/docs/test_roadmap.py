import re
from pathlib import Path

from tests.golden.test_golden import ADAPTERS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "roadmap.md").read_text(encoding="utf-8")


def test_roadmap__names_the_golden_folders_that_wait():
    golden = ROOT / "tests" / "golden"
    waiting = {file.parent.name for file in golden.glob("*/*.json")} - set(ADAPTERS)
    named = TEXT.partition("are skipped by name:")[2].partition(".\n")[0]
    assert set(re.findall(r"`(\w+)`", named)) == waiting


def test_roadmap__every_command_is_there():
    modules = set(re.findall(r"python -m benchmarks\.(\w+)", TEXT))
    assert modules
    assert [m for m in modules if not (ROOT / "benchmarks" / f"{m}.py").is_file()] == []
