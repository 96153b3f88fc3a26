import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_machine.py"
missing = runpy.run_path(str(TOOL))["missing"]


def test_missing__is_empty_on_a_machine_that_has_all() -> None:
    assert missing((3, 12), 40.0, installed=False, has_pip=True) == []


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_missing__names_the_python_that_was_found(version: tuple[int, int]) -> None:
    (line,) = missing(version, 40.0, installed=False, has_pip=True)
    assert f"found {version[0]}.{version[1]}" in line
    assert "PYTHON=" in line


def test_missing__asks_for_less_disk_once_pytorch_is_there() -> None:
    (line,) = missing((3, 11), 6.0, installed=False, has_pip=True)
    assert line.startswith("12 GB of free disk are needed")
    assert "found 6.0 GB" in line
    assert missing((3, 11), 6.0, installed=True, has_pip=True) == []
    assert missing((3, 11), 0.4, installed=True, has_pip=True)[0].startswith("1 GB")


def test_missing__tells_debian_users_about_venv() -> None:
    (line,) = missing((3, 11), 40.0, installed=False, has_pip=False)
    assert "python3-venv" in line
