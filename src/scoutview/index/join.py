"""Which image a row of somebody's table means: any id, matched against all original ids.

Examples in errors are masked, because ids and file names are private.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from scoutview.base.errors import JoinError, masked
from scoutview.index.parts import read_parts

_EXAMPLES: Final = 3
_SAMPLE: Final = 2000
_WRAPPED: Final = r'^="(.*)"$'
TRUSTED: Final = 0.5
"""Share of ids that must match before a column is taken without being named."""

KINDS: Final = ("path", "name", "stem", "image", "series", "study", "patient")
"""What an id can be, the most specific first: path below its source, name, stem, DICOM ids."""


_SETTINGS: Final = {
    "label table": "labels: [{{table: ..., {}}}] (instead of --labels)",
    "box table": "boxes: [{{path: ..., format: csv, {}}}]",
    "report table": "reports: {{path: ..., {}}}",
}
"""Where a setting of a table is written, by what the table is."""


def written(what: str, setting: str) -> str:
    """Say how a setting of a table is written.

    Args:
        what: What the table is, as "label table".
        setting: The setting and its value, as "id_column: name".
    """
    return f"in a settings file (--config FILE), as {_SETTINGS[what].format(setting)}"


def bare_stem(name: str) -> str:
    """Return a file name without folders and endings: `a/b.nii.gz` becomes `b`."""
    last = PurePosixPath(name.replace("\\", "/")).name
    for ending in (".nii.gz", ".gz"):
        if last.lower().endswith(ending):
            return last[: -len(ending)]
    return PurePosixPath(last).stem


def _path(value: str) -> str:
    return value.strip().replace("\\", "/").removeprefix("./").strip("/")


def _name(value: str) -> str:
    return _path(value).rpartition("/")[2]


def _stem(value: str) -> str:
    return bare_stem(_path(value))


_NORMAL: Final[dict[str, Callable[[str], str]]] = {"path": _path, "name": _name, "stem": _stem}


@dataclass(frozen=True)
class Match:
    """How the ids of a table fit the cohort."""

    kind: str
    """One of `KINDS`; "" if nothing fits."""
    pairs: pd.DataFrame
    """Columns `row` (position in the table) and `image_id`."""
    matched: int
    """Rows of the table that have an image."""
    ids: pd.Series
    """The table's ids, for masked examples."""

    @property
    def total(self) -> int:
        """Rows of the table."""
        return len(self.ids)

    @property
    def unmatched(self) -> pd.Series:
        """The ids of the rows that have no image."""
        return self.ids[~np.isin(np.arange(self.total), self.pairs["row"])]

    @property
    def repeated(self) -> int:
        """Rows whose image an earlier row has named."""
        return int(self.pairs.loc[self.pairs["image_id"].duplicated(), "row"].nunique())


class Keys:
    """Original ids of all images. Private: it holds names and ids in clear."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self._tables: dict[str, pd.DataFrame] = {}

    @classmethod
    def read(cls, stems: Sequence[Path]) -> "Keys":
        """Read the ids that a build has collected."""
        wanted = ["image_id", "name", "image", "series", "study", "patient", "order"]
        tables = [part.select(wanted) for part in read_parts(stems, "private")]
        frame = pa.concat_tables(tables).to_pandas()
        return cls(frame[frame["image_id"] != ""].reset_index(drop=True))

    def table(self, kind: str) -> pd.DataFrame:
        """Return columns `key` and `image_id` of one kind of id, each pair once."""
        if kind not in self._tables:
            if kind in _NORMAL:
                # Below the source's own name, which tables do not repeat.
                below = (
                    self._frame["name"]
                    .str.partition("/")[2]
                    .where(self._frame["name"].str.contains("/"), self._frame["name"])
                )
                keys = below.map(_NORMAL[kind])
            else:
                keys = self._frame[kind]
            table = pd.DataFrame({"key": keys, "image_id": self._frame["image_id"]})
            self._tables[kind] = table[table["key"] != ""].drop_duplicates(ignore_index=True)
        return self._tables[kind]

    def match(self, values: pd.Series) -> Match:
        """Find the kind of id that most values are, and their images.

        Args:
            values: Ids as strings.
        """
        best = Match("", pd.DataFrame({"row": [], "image_id": []}), 0, values)
        for kind in KINDS:
            keys = values.map(_NORMAL.get(kind, str.strip))
            asked = pd.DataFrame({"key": keys.to_numpy(), "row": range(len(values))})
            pairs = asked.merge(self.table(kind), on="key")[["row", "image_id"]]
            matched = int(pairs["row"].nunique())
            if matched > best.matched:
                best = Match(kind, pairs, matched, values)
        return best

    def kinds(self, values: Iterable[object]) -> list[set[str]]:
        """Return for each value the kinds of id that it is in the cohort, none for most words."""
        asked = list(map(str, values))
        found: list[set[str]] = [set() for _ in asked]
        for kind in KINDS:
            keys = [_NORMAL.get(kind, str.strip)(value) for value in asked]
            column = self.table(kind)["key"]
            known = set(column[column.isin(keys)])
            for place, key in enumerate(keys):
                if key in known:
                    found[place].add(kind)
        return found

    def examples(self, kind: str = "name") -> list[str]:
        """Return masked ids of the cohort."""
        return _examples(self.table(kind)["key"])


def require_column(frame: pd.DataFrame, name: str, what: str) -> None:
    """Check that a table has a column.

    Raises:
        JoinError: It has not; the nearest one is named.
    """
    if name not in frame.columns:
        known = [str(column) for column in frame.columns]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise JoinError(f"The {what} has no column {name!r}.{hint} It has: {', '.join(known)}.")


def match_table(frame: pd.DataFrame, keys: Keys, id_column: str | None, what: str) -> Match:
    """Match a table's rows to images through a named column, or the one that fits best.

    Raises:
        JoinError: No id matches, or a file name stands for several images.
    """
    if id_column is None:
        id_column = best_column(frame, keys, what)
    require_column(frame, id_column, what)
    found = keys.match(frame[id_column])
    if not found.matched:
        raise _no_match(frame, keys, id_column, what)
    if found.kind in ("path", "name", "stem", "image"):
        _refuse_ambiguous(found, what)
    return found


def best_column(frame: pd.DataFrame, keys: Keys, what: str) -> str:
    """Return the column whose ids fit the cohort best.

    Raises:
        JoinError: None fits at least half.
    """
    scores = _scores(frame, keys)
    best = max(scores, key=lambda column: scores[column], default="")
    if not best or scores[best] < TRUSTED:
        raise _no_match(frame, keys, None, what)
    return best


def _scores(frame: pd.DataFrame, keys: Keys) -> dict[str, float]:
    return {str(column): fits(frame[column], keys)[0] for column in frame.columns}


def fits(values: pd.Series, keys: Keys) -> tuple[float, str]:
    """Return the share of a column's values, or of the images, that match, the larger one; and how.

    A column of 0 and 1 may match the files `0.png` and `1.png` by accident; it counts for little,
    because repeated values count once and are set against all rows.

    Returns:
        The share, and what kind of id the values are, one of `KINDS`; "" if they match nothing.
    """
    images = max(1, len(keys.table("name")["image_id"].unique()))
    distinct = values.drop_duplicates()
    found = keys.match(distinct[distinct != ""].head(_SAMPLE))
    reached = found.pairs["image_id"].nunique()
    unique = min(1.0, reached / max(1, min(len(values), _SAMPLE)))
    return (max(unique, reached / images) if found.matched else 0.0), found.kind


def _no_match(frame: pd.DataFrame, keys: Keys, id_column: str | None, what: str) -> JoinError:
    hint = (
        _rewritten(frame, keys, id_column)
        or _nearest(frame, keys, id_column, what)
        or "No column matches any id; check that table and images belong together."
    )
    tried = f"column {id_column!r}" if id_column else "any column"
    shown = _examples(frame[id_column or frame.columns[0]])
    return JoinError(
        f"The ids of the {what} ({tried}) must match file names, paths or DICOM ids of the cohort,"
        f" but do not. In the table: {', '.join(shown)}; in the cohort:"
        f" {', '.join(keys.examples())}. {hint}"
    )


def _rewritten(frame: pd.DataFrame, keys: Keys, id_column: str | None) -> str:
    """Say what Excel, or somebody for Excel, did to the ids, "" if that is not why they differ."""
    zeroless = {
        key.lstrip("0")
        for kind in ("stem", "patient")
        for key in keys.table(kind)["key"].map(_stem)
    }
    for column in [id_column] if id_column else map(str, frame.columns):
        values = frame[column].drop_duplicates().str.strip().head(_SAMPLE)
        if len(values) < max(3, TRUSTED * min(len(frame), _SAMPLE)):
            continue  # no column of ids, or 0 and 1
        unwrapped = values.str.replace(_WRAPPED, r"\1", regex=True)
        if (unwrapped != values).any() and fits(unwrapped, keys)[0] >= TRUSTED:
            return (
                f'The ids of column {_heading(column, keys)} match without the =" and " around'
                " them, which keep leading zeros in Excel; remove these from the table."
            )
        numbers = unwrapped.map(_stem)
        same = numbers.str.isdecimal() & numbers.str.lstrip("0").isin(zeroless)
        if same.mean() >= TRUSTED:
            return (
                f"The ids of column {_heading(column, keys)} have lost their leading zeros, as"
                " happens when Excel opens a table; export it again, or import that column as text"
                " and write the zeros."
            )
    return ""


def _heading(column: str, keys: Keys) -> str:
    """Show a column's name, unless it is an id: a table may have come without a heading."""
    return repr(masked(column) if keys.kinds([column])[0] else column)


def _nearest(frame: pd.DataFrame, keys: Keys, without: str | None, what: str) -> str:
    """Name the column whose ids fit the cohort best besides one, "" if none fits at all."""
    scores = {column: share for column, share in _scores(frame, keys).items() if share > 0}
    scores.pop(without or "", None)
    if not scores:
        return ""
    near = max(scores, key=lambda column: scores[column])
    return (
        f"Column {_heading(near, keys)} comes nearest ({scores[near]:.0%}); name it as id_column"
        f" {written(what, f'id_column: {_heading(near, keys)[1:-1]}')}."
    )


def _refuse_ambiguous(found: Match, what: str) -> None:
    images = found.pairs.groupby("row")["image_id"].nunique()
    several = images[images > 1].index
    if len(several):
        shown = ", ".join(_examples(found.ids.iloc[several]))
        raise JoinError(
            f"{len(several)} ids of the {what} match several images each, as {shown}; use paths"
            " below the source, or DICOM ids."
        )


def unmatched_problem(match: Match, what: str) -> list[dict[str, Any]]:
    """Return one problem for all rows of a table that match no image, none if there are none.

    Args:
        match: How the table fits.
        what: What it is, two words as "box table"; the first names the reason.
    """
    ids = match.unmatched
    if ids.empty:
        return []
    shown = ", ".join(_examples(ids))
    return [
        {
            "file_id": "",
            "image_id": "",
            "reason": f"{what.split()[0]}_unmatched",
            "detail": f"{len(ids)} of {match.total} rows of the {what} match no image, as {shown}.",
            "action": "Add the images, correct the ids, or remove the rows.",
        }
    ]


def refuse_conflicts(
    match: Match, values: pd.Series, frame: pd.DataFrame, keys: Keys, what: str
) -> None:
    """Check that no image gets two different values.

    Args:
        match: Which images the rows of the table are.
        values: Per row of the table.
        frame: The table, where another column may hold better ids.
        keys: The original ids.
        what: What the table is.

    Raises:
        JoinError: An image does; the id column that comes nearest is named.
    """
    table = match.pairs.assign(value=values.iloc[match.pairs["row"]].to_numpy())
    counts = table.groupby("image_id")["value"].nunique(dropna=False)
    wrong = table[table["image_id"].isin(counts[counts > 1].index)]
    if len(wrong):
        shown = ", ".join(_examples(match.ids.iloc[wrong["row"]]))
        hint = _nearest(frame, keys, str(match.ids.name), what) or "No other column matches any id."
        raise JoinError(
            f"{int((counts > 1).sum())} images stand more than once in the {what} with different"
            f" values of {str(values.name)!r}, as {shown}; keep one row per image. {hint}"
        )


def _examples(values: pd.Series) -> list[str]:
    return [masked(value) for value in values.drop_duplicates().head(_EXAMPLES)]
