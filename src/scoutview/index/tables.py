"""Tables that others have written, as text: their encoding, their delimiter and their heading."""

import csv
import io
from pathlib import Path
from typing import Final, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scoutview.base.errors import JoinError, masked
from scoutview.index.join import TRUSTED, Keys, fits

_DELIMITERS: Final = (",", ";", "\t")
_SNIFFED: Final = 200
"""Lines of the beginning that tell the delimiter."""


def read_table(path: Path, what: str, keys: Keys) -> pd.DataFrame:
    """Read a CSV, TSV or Parquet table with every value as text, "" where missing.

    Args:
        path: The file.
        what: What it is, as "label table".
        keys: The original ids; a heading must not hold one.

    Raises:
        JoinError: The table cannot be read, has no heading, or has a column twice.
    """
    try:
        frame = _parquet(path) if path.suffix.lower() == ".parquet" else _delimited(path)
    except UnicodeError as error:
        raise JoinError(
            f"The {what} must be UTF-8 text, but is not; save it as UTF-8 (in Excel: Save As,"
            " CSV UTF-8)."
        ) from error
    except pd.errors.ParserError as error:
        raise JoinError(
            f"The {what} has a row with more cells than its heading; give every column a name, and"
            " put cells with a delimiter in quotes."
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise JoinError(
            f"The {what} could not be read ({type(error).__name__}); it must be a CSV, TSV or"
            " Parquet file with a heading."
        ) from error
    _require_heading(frame, keys, what)
    doubled = frame.columns[frame.columns.duplicated()]
    if len(doubled):
        raise JoinError(
            f"The {what} has the column {str(doubled[0])!r} more than once; give each column a"
            " name of its own, or remove the copy."
        )
    return frame


def _parquet(path: Path) -> pd.DataFrame:
    frame = cast(pd.DataFrame, pq.read_table(path).to_pandas())
    return frame.map(lambda value: "" if pd.isna(value) else str(value)).rename(columns=str)


def _delimited(path: Path) -> pd.DataFrame:
    # The heading is read as a row: pandas would rename a column that stands there twice.
    cells = pd.read_csv(
        path,
        sep="\t" if path.suffix.lower() in (".tsv", ".tab") else _delimiter(path),
        header=None,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
    ).fillna("")
    heading = [str(cell) or f"Unnamed: {place}" for place, cell in enumerate(cells.iloc[0])]
    return cells.iloc[1:].reset_index(drop=True).set_axis(heading, axis=1)


def _delimiter(path: Path) -> str:
    """Return the delimiter by which most of the first rows have as many cells as the heading."""
    lines = pd.read_csv(  # whole lines, as pandas also opens compressed files
        path,
        sep="\x1f",
        header=None,
        usecols=[0],
        dtype=str,
        nrows=_SNIFFED,
        quoting=csv.QUOTE_NONE,
        keep_default_na=False,
        encoding="utf-8-sig",
    )[0]
    sample = "\n".join(lines)
    if "\0" in sample:
        raise UnicodeError("text of two bytes per letter")
    scores = {
        delimiter: _evenness(sample, delimiter, cut=len(lines) == _SNIFFED)
        for delimiter in _DELIMITERS
    }
    return max(scores, key=lambda delimiter: scores[delimiter])


def _evenness(sample: str, delimiter: str, *, cut: bool) -> tuple[float, int]:
    """Return the share of rows with as many cells as the heading, and their number, from two on."""
    try:
        rows = list(csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter))
    except csv.Error:  # a cell of more than 128 kB, of text between two stray quotes
        return 0.0, 1
    counts = [len(row) for row in rows if row]
    if cut and len(counts) > 1:
        counts.pop()  # the last row may be half a row
    if not counts or counts[0] == 1:
        return 0.0, 1
    return counts.count(counts[0]) / len(counts), counts[0]


def _require_heading(frame: pd.DataFrame, keys: Keys, what: str) -> None:
    """Check that the first row names columns: without a heading it is an image, with its cells.

    What counts is the column of ids: its heading must not be an id of the same kind as its cells,
    nor be formed like them, as "0017" is. Other headings are often the name of some file.
    """
    kinds = keys.kinds(frame.columns)
    columns = [frame.iloc[:, place] for place in range(len(kinds))]
    alike = [_formed_like(values) for values in columns]
    if not any(kinds) and not any(alike):
        return
    found = [fits(values, keys) for values in columns]
    ids = max(range(len(found)), key=lambda place: found[place][0])
    share, kind = found[ids]
    if frame.empty or (share >= TRUSTED and (alike[ids] or kind in kinds[ids])):
        known = [name for name, of in zip(frame.columns, kinds, strict=True) if of]
        raise JoinError(
            f"The {what} has no heading: an id stands in its first row, as"
            f" {masked((known or frame.columns[[ids]])[0])}; add a row that names the columns."
        )


def _formed_like(values: pd.Series) -> bool:
    """Tell whether the heading of a column has digits where the first cell has them."""
    form = masked(values.name)
    return "9" in form and form in values.head(1).map(masked).tolist()
