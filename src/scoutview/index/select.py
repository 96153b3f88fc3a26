"""Expressions over the columns of a table, as `modality == 'CT' and n_slices >= 20`.

Only comparisons, `and`, `or`, `not`, `in`, arithmetic, names and literals are known; nothing can be
called or reached into, so an expression from a stranger is harmless.
"""

import ast
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scoutview.base.errors import ConfigError, unknown

_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}
_LONGEST: Final = 10_000
_EXAMPLE: Final = "write for example: modality == 'CT' and n_slices >= 20"


def where(table: pd.DataFrame, expression: str) -> pd.DataFrame:
    """Return the rows for which an expression holds; missing values never do in a comparison.

    Args:
        table: For example the index of a cohort.
        expression: Over its columns. A name with spaces stands in backticks.

    Raises:
        ConfigError: The expression cannot be read, or names a column that does not exist.
    """
    return table[mask(table, expression)]


def mask(table: pd.DataFrame, expression: str) -> NDArray[np.bool_]:
    """Return for each row whether an expression holds, (N,).

    Raises:
        ConfigError: As `where`.
    """
    if len(expression) > _LONGEST:
        raise ConfigError(
            f"An expression has at most {_LONGEST} characters, got {len(expression)}."
        )
    quoted: dict[str, str] = {}

    def name_in_backticks(found: re.Match[str]) -> str:
        stand_in = f"_column_{len(quoted)}_"
        quoted[stand_in] = found.group(1)
        return stand_in

    text = re.sub(r"`([^`]+)`", name_in_backticks, expression.strip())
    try:
        tree = ast.parse(text, mode="eval")
        result = _Evaluator(table, quoted).value(tree.body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise ConfigError(f"Cannot read the expression {expression!r}; {_EXAMPLE}.") from error
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise ConfigError(
            f"The expression {expression!r} compares or computes with values that do not go"
            f" together (text needs quotes, numbers do not); {_EXAMPLE}."
        ) from error
    return _as_mask(result, len(table), expression)


def _as_mask(result: Any, length: int, expression: str) -> NDArray[np.bool_]:
    if isinstance(result, bool):
        return np.full(length, result)
    if isinstance(result, pd.Series) and pd.api.types.is_bool_dtype(result.dtype):
        return result.fillna(False).to_numpy(dtype=bool)
    raise ConfigError(f"The expression {expression!r} must be true or false per row; {_EXAMPLE}.")


class _Evaluator:
    """Walks the syntax tree; a node without a branch here is refused."""

    def __init__(self, table: pd.DataFrame, quoted: dict[str, str]) -> None:
        self._table = table
        self._quoted = quoted

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as literal):
                return literal
            case ast.Name(id=name):
                return self._column(name)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return [ast.literal_eval(item) for item in items]
            case ast.BoolOp(op=op, values=parts):
                return self._logic(op, [self._truth(part) for part in parts])
            case ast.UnaryOp(op=ast.Not(), operand=part):
                truth = self._truth(part)
                return (not truth) if isinstance(truth, bool) else ~truth
            case ast.UnaryOp(op=ast.USub(), operand=part):
                return -self.value(part)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                return _ARITHMETIC[type(operator)](self._number(left), self._number(right))
            case ast.Compare():
                return self._compare(node)
        raise ConfigError(
            f"An expression knows comparisons, and, or, not, in and arithmetic, not"
            f" {type(node).__name__}; {_EXAMPLE}."
        )

    def _column(self, name: str) -> pd.Series:
        name = self._quoted.get(name, name)
        if name not in self._table.columns:
            raise unknown("column", name, map(str, self._table.columns))
        return self._table[name]

    def _number(self, node: ast.expr) -> Any:
        value = self.value(node)
        is_text = isinstance(value, str | list) or (
            isinstance(value, pd.Series) and not pd.api.types.is_numeric_dtype(value.dtype)
        )
        if is_text:
            raise TypeError("arithmetic needs numbers")
        return value

    def _truth(self, node: ast.expr) -> Any:
        value = self.value(node)
        if isinstance(value, bool):
            return value
        if isinstance(value, pd.Series) and pd.api.types.is_bool_dtype(value.dtype):
            return value.fillna(False).astype(bool)
        raise TypeError("and, or, not need conditions")

    def _logic(self, op: ast.boolop, parts: list[Any]) -> Any:
        result = parts[0]
        for part in parts[1:]:
            result = (result & part) if isinstance(op, ast.And) else (result | part)
        return result

    def _compare(self, node: ast.Compare) -> Any:
        result: Any = True
        left = self.value(node.left)
        for operator, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            result = _compared(operator, left, right) & result
            left = right
        return result


def _compared(operator: ast.cmpop, left: Any, right: Any) -> Any:
    if isinstance(operator, ast.In | ast.NotIn):
        if not isinstance(right, list):
            raise TypeError("in needs a list")
        found = left.isin(right) if isinstance(left, pd.Series) else left in right
        if isinstance(operator, ast.In):
            return found
        return ~found if isinstance(found, pd.Series) else not found
    if type(operator) not in _COMPARE:
        raise TypeError("is and is not are no comparisons of values")
    if _is_text(left) != _is_text(right):
        raise TypeError("text compared with a number")
    return _COMPARE[type(operator)](left, right)


def _is_text(value: Any) -> bool:
    if isinstance(value, pd.Series):
        return not (
            pd.api.types.is_numeric_dtype(value.dtype) or pd.api.types.is_bool_dtype(value.dtype)
        )
    return isinstance(value, str)
