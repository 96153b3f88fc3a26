import ast
import inspect
from textwrap import dedent

import pytest

from scoutview.methods import METHODS, method_class


def test_methods__are_listed_in_order():
    assert list(METHODS) == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_constructor__uses_all_that_it_asks_for(name):
    make = method_class(name).__init__
    body = ast.parse(dedent(inspect.getsource(make)))
    used = {node.id for node in ast.walk(body) if isinstance(node, ast.Name)}
    assert set(inspect.signature(make).parameters) - {"self"} <= used
