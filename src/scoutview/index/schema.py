"""The tables of a cohort folder, their versions, and how older ones are read.

`index.parquet` and everything beside it may be shared; only `private.parquet` names sources.
"""

import hashlib
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from scoutview.base.errors import RunError

COHORT: Final = "cohort"
"""Name of the schema in `cohort.json`."""

VERSION: Final = 1
"""Version of all tables of a cohort together. A changed column needs the next number."""

_GEOMETRY: Final = [
    ("source", pa.string()),
    ("modality", pa.string()),
    ("body_part", pa.string()),
    ("projection", pa.string()),
    ("laterality", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("n_slices", pa.int32()),
    ("channels", pa.int32()),
    ("frames", pa.int32()),
    ("dtype", pa.string()),
    ("bits_stored", pa.int32()),
    ("spacing_z", pa.float64()),
    ("spacing_y", pa.float64()),
    ("spacing_x", pa.float64()),
    ("orientation", pa.string()),
    ("gantry_tilt", pa.float64()),
    ("slope", pa.float64()),
    ("intercept", pa.float64()),
    ("window_center", pa.float64()),
    ("window_width", pa.float64()),
    ("voi_lut", pa.bool_()),
    ("photometric", pa.string()),
    ("transfer_syntax", pa.string()),
    ("burned_in", pa.string()),
    ("secondary_capture", pa.bool_()),
    ("localizer", pa.bool_()),
]

HEADER: Final = pa.schema(_GEOMETRY)
"""What a file says about its pixels, in numbers and words of closed vocabularies.

`burned_in` is "yes", "no" or "" (the file does not say); unknown numbers are NaN.
"""

INDEX: Final = pa.schema(
    [
        ("image_id", pa.string()),
        ("image_key", pa.int64()),
        ("patient_id", pa.string()),
        ("study_id", pa.string()),
        ("series_id", pa.string()),
        ("file_id", pa.string()),
        ("kind", pa.string()),
        *_GEOMETRY,
        ("split", pa.string()),
        ("fold", pa.int32()),
        ("labelmap", pa.bool_()),
        ("report", pa.bool_()),
    ]
)
"""One row per image or volume; one column per label follows, then those that `keep` names."""

PRIVATE: Final = pa.schema(
    [
        ("file_id", pa.string()),
        ("image_id", pa.string()),
        ("order", pa.int32()),
        ("status", pa.string()),
        ("path", pa.string()),
        ("member", pa.string()),
        ("item", pa.int64()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("signature", pa.int64()),
        ("name", pa.string()),
        ("group", pa.int64()),
        ("patient", pa.string()),
        ("study", pa.string()),
        ("series", pa.string()),
        ("image", pa.string()),
        ("instance_number", pa.int64()),
        ("position", pa.list_(pa.float64())),
        ("direction", pa.list_(pa.float64())),
        ("source_split", pa.string()),
        ("values", pa.map_(pa.string(), pa.float64())),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("action", pa.string()),
        *_GEOMETRY,
    ]
)
"""One row per file, frame stack or array row that was seen, in clear: the only private table.

`status` is "image", "problem", "nonimage" or "labelmap"; `order` counts slices along a volume;
`signature` says whether the file has changed; `name` is the path below its source.
"""

BOXES: Final = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("y0", pa.float64()),
        ("x0", pa.float64()),
        ("y1", pa.float64()),
        ("x1", pa.float64()),
        ("score", pa.float64()),
    ]
)
"""Corners in pixels, continuous: pixel i covers [i, i + 1). `score` is NaN for human boxes."""

REPORTS: Final = pa.schema([("image_id", pa.string()), ("text", pa.string())])
"""Report text of an image."""

PROBLEMS: Final = pa.schema(
    [
        ("file_id", pa.string()),
        ("image_id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("action", pa.string()),
    ]
)
"""Columns of `problems.csv`."""

TABLES: Final = {
    "index": INDEX,
    "private": PRIVATE,
    "boxes": BOXES,
    "reports": REPORTS,
    "problems": PROBLEMS,
}

Upgrade = Callable[[pa.Table], pa.Table]

UPGRADES: dict[int, Upgrade] = {}
"""For each older version, the function that turns its index table into the next version's."""


def digest() -> str:
    """Return a digest of every column of every table; a test ties it to `VERSION`."""
    text = "\n".join(f"{name}.{f.name}:{f.type}" for name, t in TABLES.items() for f in t)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def upgraded(table: pa.Table, version: int) -> pa.Table:
    """Bring an index table of an older version to the present one.

    Raises:
        RunError: A step between the versions is missing.
    """
    for step in range(version, VERSION):
        if step not in UPGRADES:
            raise RunError(
                f"This cohort has schema version {step}, which this scoutview no longer reads;"
                " index the sources again into a new folder."
            )
        table = UPGRADES[step](table)
    return table
