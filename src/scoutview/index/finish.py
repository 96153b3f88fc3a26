"""Write the tables of a cohort: whole, in an order that a kill cannot turn into a lie."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scoutview.base.files import atomic_writer, sync_folder, write_json
from scoutview.index.attach import Attached
from scoutview.index.labels import Label
from scoutview.index.parts import lasting_writer, read_parts
from scoutview.index.privacy import PRIVATE_MODE, fingerprint
from scoutview.index.scan import csv_lines
from scoutview.index.schema import BOXES, COHORT, INDEX, PRIVATE, PROBLEMS, REPORTS, VERSION

_LOG = logging.getLogger(__name__)

_SET_LATE = ("patient_id", "split", "fold", "labelmap", "report")


def write(
    out: Path,
    stems: Sequence[Path],
    attached: Attached,
    key: bytes,
    state: str,
    *,
    files: int,
    names: dict[int, str],
) -> None:
    """Write all tables; `cohort.json` goes first and comes last.

    Args:
        out: The cohort folder.
        stems: Results of `scan.group`, in the order of the index.
        attached: What is joined.
        key: The cohort's secret key.
        state: What this build was made from; an equal state needs no new build.
        files: Number of files that were seen.
        names: Names of labelmap values.
    """
    # Without cohort.json nobody opens a folder in which old and new tables are mixed.
    (out / "cohort.json").unlink(missing_ok=True)
    sync_folder(out)
    counts = _write_private(out, stems, attached, key, state)
    _write_index(out, stems, attached)
    _write_frame(out / "boxes.parquet", attached.boxes, BOXES, 0o644)
    _write_frame(out / "reports.parquet", attached.reports, REPORTS, PRIVATE_MODE)
    problems = write_problems(out, stems, attached.problems)
    content = _content(attached, key) | {"labelmap_names": {str(k): v for k, v in names.items()}}
    content["patient_ids_known"] = counts["images_without_patient"] == 0
    content["counts"] |= {"files": files, **counts, "problems": dict(sorted(problems.items()))}
    write_json(out / "cohort.json", content, schema=COHORT, version=VERSION)


def write_problems(
    out: Path, stems: Sequence[Path], joined: Sequence[dict[str, Any]]
) -> Counter[str]:
    """Write `problems.csv`.

    Args:
        out: The cohort folder.
        stems: Results of `scan.group`.
        joined: Problems that joining found.

    Returns:
        Number of problems by reason.
    """
    reasons: Counter[str] = Counter()
    with atomic_writer(out / "problems.csv") as stream:
        stream.write((",".join(PROBLEMS.names) + "\n").encode())
        for part in read_parts(stems, "problems"):
            rows = part.to_pylist()
            reasons.update(row["reason"] for row in rows)
            stream.write(csv_lines(rows))
        reasons.update(row["reason"] for row in joined)
        stream.write(csv_lines(joined))
    return reasons


def _write_private(
    out: Path, stems: Sequence[Path], attached: Attached, key: bytes, state: str
) -> dict[str, Any]:
    """Write the private table and count what was seen."""
    schema = PRIVATE.with_metadata({b"key": key.hex().encode(), b"state": state.encode()})
    patients_missing, other = 0, Counter[str]()
    path = out / "private.parquet"
    with (
        atomic_writer(path, mode=PRIVATE_MODE) as stream,
        lasting_writer(stream, schema) as target,
    ):
        for part in read_parts(stems, "private"):
            table = _with_patients(part, attached.patients)
            first = pc.and_(pc.equal(table["order"], 0), pc.equal(table["patient"], ""))
            patients_missing += pc.sum(first).as_py() or 0
            kinds = table.filter(pc.equal(table["status"], "nonimage"))["reason"]
            other.update(kinds.to_pylist())
            target.write_table(table.replace_schema_metadata(schema.metadata))
        if attached.private:
            target.write_table(pa.Table.from_pylist(attached.private, PRIVATE))
    return {
        "images_without_patient": patients_missing,
        "non_images": dict(sorted(other.items())),
    }


def _with_patients(table: pa.Table, patients: dict[str, str]) -> pa.Table:
    """Put the patients that a table gave in place of those of the files."""
    if not patients:
        return table
    pairs = zip(table["image_id"].to_pylist(), table["patient"].to_pylist(), strict=True)
    known = [patients.get(image_id, patient) for image_id, patient in pairs]
    place = table.schema.get_field_index("patient")
    return table.set_column(place, table.schema.field(place), pa.array(known, pa.string()))


def _write_index(out: Path, stems: Sequence[Path], attached: Attached) -> None:
    schema = INDEX
    for label in attached.labels:
        schema = schema.append(_label_field(label))
    for name in attached.kept:
        schema = schema.append(pa.field(name, pa.string()))
    names = [*_SET_LATE, *schema.names[len(INDEX) :]]
    late = pa.Table.from_pandas(
        attached.images[names],
        schema=pa.schema([schema.field(name) for name in names]),
        preserve_index=False,
    )
    with (
        atomic_writer(out / "index.parquet") as stream,
        lasting_writer(stream, schema) as table,
    ):
        start = 0
        for early in read_parts(stems, "index"):
            here = late.slice(start, len(early))
            start += len(early)
            columns = [
                (here if name in here.column_names else early).column(name) for name in schema.names
            ]
            whole = pa.Table.from_arrays(columns, schema=schema)
            table.write_table(_with_assumed(whole, attached.assumed))


def _with_assumed(table: pa.Table, assumed: dict[str, str | None]) -> pa.Table:
    """Put the owner's word where the file says nothing."""
    for name, word in assumed.items():
        if word is not None:
            place = table.schema.get_field_index(name)
            silent = pc.equal(table.column(name), "unknown")
            filled = pc.if_else(silent, word, table.column(name))
            table = table.set_column(place, table.schema.field(place), filled)
    return table


def _label_field(label: Label) -> pa.Field:
    return pa.field(label.name, pa.float64() if label.kind == "binary" else pa.string())


def _write_frame(path: Path, frame: pd.DataFrame, schema: pa.Schema, mode: int) -> None:
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    with atomic_writer(path, mode=mode) as stream:
        pq.write_table(table, stream, compression="zstd", compression_level=1)


def _content(attached: Attached, key: bytes) -> dict[str, Any]:
    images = attached.images
    return {
        "counts": {
            "rows": len(images),
            "patients": int(images["patient_id"].nunique()),
            "kinds": {str(k): int(n) for k, n in images["kind"].value_counts().items()},
            "splits": {str(k): int(n) for k, n in images["split"].value_counts().items()},
            "boxes": len(attached.boxes),
            "reports": len(attached.reports),
            "labelmaps": len(attached.private),
        },
        "labels": [label.to_json() for label in attached.labels],
        "kept": attached.kept,
        "joins": attached.joins,
        "patients_in_several_parts": attached.overlap,
        "key_fingerprint": fingerprint(key),
    }
