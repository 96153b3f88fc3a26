"""Report text, matched to images by any id.

A report is free text that may name people: it is taken only because the owner asked for it, and
`reports.parquet` is readable by its owner only.
"""

from typing import Any, Final

import pandas as pd

from scoutview.base.errors import JoinError
from scoutview.index.config import ReportTable
from scoutview.index.join import (
    Keys,
    Match,
    match_table,
    refuse_conflicts,
    require_column,
    unmatched_problem,
)
from scoutview.index.tables import read_table

_WHAT: Final = "report table"


def join_reports(
    source: ReportTable, images: pd.DataFrame, keys: Keys
) -> tuple[pd.DataFrame, list[dict[str, Any]], Match]:
    """Read reports and match them to the images.

    Args:
        source: A table, or a folder of .txt files.
        images: Index rows with `image_id` and `file_id`.
        keys: The original ids.

    Returns:
        Columns `image_id` and `text`; a problem per image whose report is empty, and one for
        reports without an image; how the reports matched.

    Raises:
        JoinError: No id matches, or an image has two different reports.
    """
    frame = _read_folder(source) if source.path.is_dir() else read_table(source.path, _WHAT, keys)
    column = "text" if source.path.is_dir() else source.text_column
    id_column = "id" if source.path.is_dir() else source.id_column
    require_column(frame, column, _WHAT)
    match = match_table(frame, keys, id_column, _WHAT)
    text = frame[column].str.strip()
    refuse_conflicts(match, text, frame, keys, _WHAT)
    pairs = match.pairs.drop_duplicates("image_id")
    reports = pd.DataFrame(
        {"image_id": pairs["image_id"].to_numpy(), "text": text.iloc[pairs["row"]].to_numpy()}
    )
    empty = reports[reports["text"] == ""]
    files = images.set_index("image_id")["file_id"]
    problems = [
        {
            "file_id": str(files[image_id]),
            "image_id": str(image_id),
            "reason": "empty_report",
            "detail": "The report of the image has no text.",
            "action": "Add its text, or leave it out; the image counts as without a report.",
        }
        for image_id in empty["image_id"]
    ]
    whole = reports[reports["text"] != ""].sort_values("image_id", ignore_index=True)
    return whole, problems + unmatched_problem(match, _WHAT), match


def _read_folder(source: ReportTable) -> pd.DataFrame:
    files = sorted(source.path.rglob("*.txt"))
    try:
        rows = [(file.stem, file.read_text(encoding="utf-8-sig")) for file in files]
    except (OSError, ValueError) as error:
        raise JoinError(
            f"A report file could not be read as UTF-8 ({type(error).__name__}); convert it."
        ) from error
    if not rows:
        raise JoinError("The folder of reports holds no .txt file; check its path.")
    return pd.DataFrame(rows, columns=["id", "text"])
