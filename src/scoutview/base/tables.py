"""Parquet files that cannot be read say so in one way."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scoutview.base.errors import RunError


def read_parquet(path: Path, *, remedy: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file that scoutview wrote.

    Args:
        path: The file.
        remedy: What to do if it is damaged, as "index the sources again".
        columns: The columns to read; None takes all.

    Raises:
        RunError: The file is missing, cut short or no Parquet file.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist; {remedy}.")
    try:
        return pq.read_table(path, columns=list(columns) if columns is not None else None)
    except (pa.ArrowException, OSError) as error:
        raise RunError(
            f"{path} is damaged (not a whole Parquet file: {type(error).__name__}); {remedy}."
        ) from error


def is_whole(path: Path) -> bool:
    """Say whether a Parquet file is there to its end; a look at its last bytes only."""
    try:
        pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return False
    return True
