"""The method that the page writes stands up to the tests that it tells its reader to borrow."""

import inspect
import re
import sys
from pathlib import Path

import pytest
from tests.methods import test_contract as contract

from scoutview.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-method.md"
NAME = "my_simsiam"
OWN_PAGE = {"test_page__exists_and_has_its_sections", "test_page__shows_the_defaults_of_the_code"}
"""What only methods of the package have."""


def checks():
    """Tests of the contract that run in one process and take nothing but a name."""
    for key, test in vars(contract).items():
        if key.startswith("test_") and key not in OWN_PAGE and "two_processes" not in key:
            required = [
                parameter.name
                for parameter in inspect.signature(test).parameters.values()
                if parameter.default is parameter.empty
            ]
            if required == ["name"]:
                yield test


@pytest.fixture
def outside(tmp_path, monkeypatch):
    code = re.search(r"^```python\n(# my_simsiam\.py\n.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert code is not None
    (tmp_path / "my_simsiam.py").write_text(code[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(METHODS, NAME, ("my_simsiam", "SimSiamConfig", "SimSiam"))
    yield
    sys.modules.pop("my_simsiam", None)


@pytest.mark.parametrize("check", list(checks()), ids=lambda check: check.__name__)
def test_method_of_the_page__meets_the_contract(check, outside):
    check(NAME)


def test_checks__are_those_that_matter():
    names = {check.__name__ for check in checks()}
    assert len(names) >= 8
    assert "test_file__is_one_method_section" in names
