"""A run folder: one training, with everything needed to repeat, resume and judge it.

Every name inside the folder is written here and nowhere else. Every file carries the version of its
schema (see `schema`); `metrics.jsonl` shares that of the run.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scoutview.base.errors import DataError, RunError
from scoutview.base.files import (
    atomic_writer,
    remove_partial,
    require_empty,
    sync_folder,
    write_json,
    write_text,
)
from scoutview.base.tables import read_parquet
from scoutview.results.schema import VERSIONS, read_versioned

logger = logging.getLogger(__name__)

PREDICTION_COLUMNS: Final = {
    "image_id": "string",
    "patient_id": "string",
    "split": "string",
    "fold": "int64",
    "label": "string",
    "target": "float64",
    "score": "float64",
}
"""Columns of predictions.parquet. One row per image and label; a class of several is a label."""

EMBEDDING_COLUMNS: Final = {
    "image_id": "string",
    "patient_id": "string",
    "split": "string",
    "embedding": "list<float>",
}
"""Columns of embeddings.parquet."""

METRIC_KEYS: Final = ("step", "epoch", "samples_seen", "time_s")
"""What every line of metrics.jsonl has: the step, epochs done (1.0 after the first), images seen,
seconds of training. Further keys (loss, lr, knn_auc, ...) may follow."""

Status = Literal["finished", "unfinished"]


class RunFolder:
    """One training on disk.

    `metrics.jsonl` grows while training runs; `summary.json` appears last, so a run without it did
    not finish.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], environment: Mapping[str, Any]
    ) -> Self:
        """Start a run in a new folder.

        Args:
            path: The folder; created with its parents.
            config: The complete configuration, as plain values.
            environment: What `provenance.environment()` returned.

        Raises:
            RunError: The folder has content already.
        """
        path = require_empty(path)
        # Built beside its place and renamed: a killed start leaves nothing that blocks the next.
        new = path.with_name(f".{path.name}.new")
        if new.exists():
            shutil.rmtree(new)
        (new / "checkpoints").mkdir(parents=True)
        _write(new / "environment.json", "environment", environment)
        _write(new / "config.json", "run", config)
        path.rmdir()
        os.replace(new, path)
        sync_folder(path.parent)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing run.

        Raises:
            RunError: There is no run in the folder, or it comes from a newer scoutview.
        """
        run = cls(path)
        if not (run.path / "config.json").is_file():
            raise RunError(f"{run.path}: no run here (config.json is missing); check the path.")
        _read(run.path / "config.json", "run")
        return run

    @classmethod
    def resume(cls, path: str | Path, *, step: int) -> Self:
        """Open a run to go on with it.

        What a killed writer left is removed, and so are the metrics after a step, which would
        otherwise be reported twice.

        Args:
            path: The folder of the run.
            step: Last step whose metrics are kept: what the checkpoint already covers, -1 for none.

        Raises:
            RunError: There is no run in the folder, or it has finished.
        """
        run = cls.open(path)
        if run.finished:
            raise RunError(f"{run.path}: the run has finished; nothing is left to resume.")
        remove_partial(run.path)
        kept = [line for line in run._metric_lines() if line["step"] <= step]
        write_text(run.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        return run

    # ---------------------------------------------------------------- names

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def backbone(self) -> Path:
        """The final backbone's weights (safetensors)."""
        return self.path / "backbone.safetensors"

    @property
    def kept_head(self) -> Path:
        """Layers behind the backbone that fine-tuning may start from (safetensors); few have it."""
        return self.path / "kept_head.safetensors"

    @property
    def model_card(self) -> Path:
        """What the exported backbone is, for people."""
        return self.path / "model_card.md"

    @property
    def log(self) -> Path:
        """The text log; the file that a logging handler may append to."""
        return self.path / "log.txt"

    # ---------------------------------------------------------------- settings and state

    @property
    def config(self) -> dict[str, Any]:
        """The complete configuration."""
        return _read(self.path / "config.json", "run")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, hardware and commit at the start of the run."""
        return _read(self.path / "environment.json", "environment")

    @property
    def status(self) -> Status:
        """Whether `finish` was reached."""
        return "finished" if (self.path / "summary.json").is_file() else "unfinished"

    @property
    def finished(self) -> bool:
        """Whether `finish` was reached."""
        return self.status == "finished"

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as finished.

        Args:
            summary: Plain values. Known to the results page: `epoch_choice` ("last" or
                "validation"), `chosen_epoch`, `samples_seen`, `time_s`, and `notes` (a list of
                sentences that a reader of the results must know).
        """
        _write(self.path / "summary.json", "summary", summary)

    def summary(self) -> dict[str, Any]:
        """What `finish` was given.

        Raises:
            RunError: The run has not finished.
        """
        if not self.finished:
            raise RunError(f"{self.path}: the run has not finished; resume it first.")
        return _read(self.path / "summary.json", "summary")

    def write_model_card(self, text: str) -> None:
        """Write model_card.md."""
        write_text(self.model_card, text)

    # ---------------------------------------------------------------- metrics

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl.

        Args:
            metrics: Scalars; `METRIC_KEYS` must be among them. NaN and infinity become null.

        Raises:
            DataError: A key of `METRIC_KEYS` is missing.
        """
        if missing := [key for key in METRIC_KEYS if key not in metrics]:
            raise DataError(f"A line of metrics needs {', '.join(METRIC_KEYS)}; missing {missing}.")
        line = json.dumps({key: _plain(value) for key, value in metrics.items()}) + "\n"
        fd = os.open(self.path / "metrics.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def metrics(self) -> pd.DataFrame:
        """Read metrics.jsonl, one row per line, ordered as written; empty when there are none.

        A last line that was cut off by a kill is dropped with a log message.
        """
        lines = self._metric_lines()
        return pd.DataFrame(lines) if lines else pd.DataFrame(columns=list(METRIC_KEYS))

    def _metric_lines(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        text = path.read_text(encoding="utf-8")
        whole, _, rest = text.rpartition("\n")
        if rest:
            logger.warning("%s: the last line is cut off and ignored.", path)
        return [json.loads(line) for line in whole.splitlines()]

    # ---------------------------------------------------------------- tables

    def write_predictions(self, predictions: pd.DataFrame) -> None:
        """Write predictions.parquet.

        Args:
            predictions: The columns of `PREDICTION_COLUMNS`; target 0 or 1 or NaN (missing), score
                a probability in [0, 1], one row per split, image and label.

        Raises:
            DataError: A column is missing or extra, a score is no probability, or a row comes
                twice.
        """
        table = checked_predictions(predictions)
        schema = _schema(PREDICTION_COLUMNS, "predictions")
        with atomic_writer(self.path / "predictions.parquet") as stream:
            pq.write_table(pa.Table.from_pandas(table, schema, preserve_index=False), stream)

    def predictions(self) -> pd.DataFrame:
        """Read predictions.parquet.

        Raises:
            RunError: There are none, or they come from a newer scoutview.
        """
        table = _read_table(self.path / "predictions.parquet", "predictions")
        return _text_columns(table.to_pandas())

    @property
    def has_predictions(self) -> bool:
        """Whether predictions were written."""
        return (self.path / "predictions.parquet").is_file()

    def write_embeddings(self, rows: pd.DataFrame, embeddings: NDArray[np.float32]) -> None:
        """Write embeddings.parquet.

        Args:
            rows: Columns image_id, patient_id, split; one row per image.
            embeddings: Features, (len(rows), dim).

        Raises:
            DataError: Lengths differ or a value is not finite.
        """
        write_embeddings(self.path / "embeddings.parquet", rows, embeddings)

    def embeddings(self) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        """Read embeddings.parquet: rows (image_id, patient_id, split) and features (N, dim).

        Raises:
            RunError: There are none, or they come from a newer scoutview.
        """
        return read_embeddings(self.path / "embeddings.parquet")

    @property
    def has_embeddings(self) -> bool:
        """Whether embeddings were written."""
        return (self.path / "embeddings.parquet").is_file()


def checked_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Check a table of predictions and put its columns into the order of the schema.

    Raises:
        DataError: A column is missing or extra, a target is not 0, 1 or NaN, a score is no
            probability, or a row comes twice.
    """
    missing = [name for name in PREDICTION_COLUMNS if name not in predictions]
    extra = [name for name in predictions if name not in PREDICTION_COLUMNS]
    if missing or extra:
        raise DataError(
            f"Predictions need the columns {', '.join(PREDICTION_COLUMNS)};"
            f" missing {missing}, not known {extra}."
        )
    table = predictions[list(PREDICTION_COLUMNS)]
    score = table["score"].to_numpy(dtype=np.float64)
    if not ((score >= 0) & (score <= 1)).all():
        raise DataError(
            "Scores must be probabilities in [0, 1] without NaN, got"
            f" {np.nanmin(score, initial=np.inf):g} to {np.nanmax(score, initial=-np.inf):g}"
            f" and {int(np.isnan(score).sum())} NaN; apply sigmoid or softmax first."
        )
    target = table["target"].to_numpy(dtype=np.float64)
    if not (np.isnan(target) | np.isin(target, (0.0, 1.0))).all():
        raise DataError("Targets must be 0, 1 or NaN (missing); split classes into one row each.")
    if table.duplicated(["split", "image_id", "label"]).any():
        raise DataError("Predictions hold an image and label twice in a split; keep one row each.")
    return table


def write_embeddings(path: str | Path, rows: pd.DataFrame, embeddings: NDArray[np.float32]) -> None:
    """Write a table of embeddings.

    Args:
        path: The Parquet file.
        rows: Columns image_id, patient_id, split; one row per image.
        embeddings: Features, (len(rows), dim).

    Raises:
        DataError: Lengths differ or a value is not finite.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(rows):
        raise DataError(
            f"Embeddings must be ({len(rows)}, dim), one row per image; got {embeddings.shape}."
        )
    if not np.isfinite(embeddings).all():
        raise DataError("Embeddings must be finite; the backbone gave NaN or infinity.")
    schema = _schema(EMBEDDING_COLUMNS, "embeddings")
    flat = pa.array(np.ascontiguousarray(embeddings, dtype=np.float32).ravel())
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * embeddings.shape[1])
    lists = pa.ListArray.from_arrays(offsets, flat)
    text = [pa.array(rows[name].astype(str), pa.string()) for name in rows_of(EMBEDDING_COLUMNS)]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(path) as stream:
        pq.write_table(pa.Table.from_arrays([*text, lists], schema=schema), stream)


def read_embeddings(path: str | Path) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Read a table of embeddings.

    Returns:
        The rows (image_id, patient_id, split) and the features, (N, dim).

    Raises:
        RunError: The file is missing, no embeddings, or from a newer scoutview.
    """
    table = _read_table(Path(path), "embeddings")
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    features = np.asarray(flat, dtype=np.float32).reshape(table.num_rows, -1)
    return _text_columns(table.select(rows_of(EMBEDDING_COLUMNS)).to_pandas()), features


def rows_of(columns: Mapping[str, str]) -> list[str]:
    """Names of the text columns of a schema."""
    return [name for name, kind in columns.items() if kind == "string"]


_ARROW: Final = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "list<float>": pa.list_(pa.float32()),
}


def _schema(columns: Mapping[str, str], name: str) -> pa.Schema:
    fields = [pa.field(column, _ARROW[kind]) for column, kind in columns.items()]
    return pa.schema(fields, metadata={"schema": name, "schema_version": str(VERSIONS[name])})


def _read_table(path: Path, name: str) -> pa.Table:
    if not path.is_file():
        raise RunError(f"{path} does not exist; expected a table of {name} there.")
    table = read_parquet(path, remedy="restore it, or make the run again in a new folder")
    metadata = table.schema.metadata or {}
    found = metadata.get(b"schema", b"?").decode()
    if found != name:
        raise RunError(f"{path}: expected a table of {name}, got {found!r}.")
    stored, version = int(metadata[b"schema_version"]), VERSIONS[name]
    if stored > version:
        raise RunError(
            f"{path}: schema version {stored} is newer than the {version} that this scoutview"
            " reads; update scoutview."
        )
    return table


def _text_columns(table: pd.DataFrame) -> pd.DataFrame:
    text = [name for name in table if name in ("image_id", "patient_id", "split", "label")]
    return table.astype(dict.fromkeys(text, object))


def _read(path: Path, schema: str) -> dict[str, Any]:
    return dict(read_versioned(path, schema)["content"])


def _write(path: Path, schema: str, content: Mapping[str, Any]) -> None:
    write_json(path, {"content": dict(content)}, schema=schema, version=VERSIONS[schema])


def _plain(value: Any) -> Any:
    """Make a NumPy scalar a plain one, and what JSON cannot hold null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
