"""`embed`: a cohort and a run in; one feature vector per image out."""

import io
import logging
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import Module

from scoutview.api.index import open_cohort
from scoutview.api.store import stored
from scoutview.base.errors import ConfigError, DataError, RunError
from scoutview.base.files import (
    atomic_writer,
    read_json,
    relative_place,
    require_empty,
    write_json,
)
from scoutview.base.progress import bar
from scoutview.data.samples import DataConfig
from scoutview.index.cohort import Cohort
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.results.run import RunFolder, write_embeddings
from scoutview.tasks.evaluation import Evaluation
from scoutview.tasks.features import weights_hash
from scoutview.views.policy import EvalView

log = logging.getLogger(__name__)

VERSION: Final = 2
"""Version of embeddings.json; 2 added `call`."""

PART: Final = 65_536
"""Images per part: what a kill loses at most."""


def embed(
    cohort: str | Path | Cohort,
    run: str | Path,
    out: str | Path,
    *,
    where: str | None = None,
    batch_size: int = 256,
    threads: int = 1,
    accelerator: Literal["cpu", "gpu"] | None = None,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    resume: bool = False,
    part: int = PART,
) -> Path:
    """Compute the backbone's features of a cohort's images.

    View, intensity and standardisation are the run's, so features mean what they meant there.

    Args:
        cohort: The cohort, or its folder; a missing store is built first.
        run: A run with a backbone.
        out: New folder: `embeddings.parquet` (image_id, patient_id, split, embedding float32) and
            `embeddings.json`, which says where they come from.
        where: Expression over the cohort's columns; only these images.
        batch_size: Images per forward pass.
        threads: Threads that read images and make views.
        accelerator: Kind of device; None uses a GPU where there is one.
        precision: Number format of the forward pass.
        resume: Go on in a folder that a stopped call left.
        part: Images per part that is kept while the rest is computed.

    Returns:
        The Parquet file. Images without pixels are left out and counted in `embeddings.json`.

    Raises:
        RunError: The run has no backbone, `out` has content, or holds parts of something else.
        DataError: No image is selected.
        ConfigError: A number is out of range, or a GPU is asked for and there is none.
    """
    if batch_size < 1 or threads < 0 or part < 1:
        raise ConfigError(
            "batch_size and part must be >= 1 and threads >= 0, got"
            f" {batch_size}, {part} and {threads}."
        )
    source = RunFolder.open(run)
    if not source.backbone.is_file():
        raise RunError(f"{source.path} has no backbone.safetensors; finish the run with --resume.")
    whole = open_cohort(cohort, where)
    store = stored(whole)
    values = source.config
    config = BackboneConfig.build(dict(values["backbone"]) | {"weights": str(source.backbone)})
    backbone = build_backbone(config)
    evaluation = Evaluation(
        store,
        DataConfig.build(values["data"]),
        EvalView.build(values["view"]),
        values["mean"],
        values["std"],
        batch_size,
        threads,
    )
    rows = store.row_of(whole.table["image_id"])
    there = store.present()[rows]
    if not there.any():
        raise DataError("No selected image has pixels in the store; see its problems.csv.")
    table, rows = whole.table[there].reset_index(drop=True), rows[there]
    origin = {
        "run": source.name,
        "backbone": values["backbone"] | {"weights": None},
        "weights": weights_hash(backbone),
        "views": evaluation.digest(rows),
        "precision": precision,
        "images": len(rows),
        "without_pixels": int((~there).sum()),
        "dim": backbone.dim,
        "part": part,
    }
    call = {
        "cohort": relative_place(whole.folder, out),
        "run": relative_place(source.path, out),
        "where": where,
        "batch_size": batch_size,
        "threads": threads,
        "accelerator": accelerator,
    }
    folder = _folder(Path(out), origin, call, resume)
    file = folder / "embeddings.parquet"
    if file.is_file():
        return file
    pieces = []
    with bar("embed", total=len(rows)) as shown:
        for number, begin in enumerate(range(0, len(rows), part)):
            piece = folder / f"part-{number:05d}.npy"
            chosen = rows[begin : begin + part]
            if not piece.is_file():
                _save(piece, _features(backbone, evaluation, chosen, accelerator, precision))
                log.info("embed: %d of %d images", begin + len(chosen), len(rows))
            pieces.append(piece)
            shown.advance(len(chosen))
    features = np.concatenate([np.load(piece) for piece in pieces])
    write_embeddings(file, table[["image_id", "patient_id", "split"]], features)
    for piece in pieces:
        piece.unlink()
    return file


def resume_embed(out: str | Path, cohort: str | Path | Cohort | None = None) -> Path:
    """Go on in a folder that a stopped call left; it holds what was asked for.

    Args:
        out: The folder.
        cohort: The cohort if it has moved, or its folder.

    Returns:
        The Parquet file.

    Raises:
        RunError: There are no embeddings, or an older scoutview began them.
    """
    folder = Path(out)
    content = read_json(folder / "embeddings.json", schema="embedding", version=VERSION)
    if "call" not in content:
        raise RunError(
            f"{out} does not say what it was asked for (an older scoutview made it); call embed"
            " with all arguments and resume."
        )
    call = dict(content["call"])
    there, run = ((folder / call.pop(name)).resolve() for name in ("cohort", "run"))
    again = {name: content[name] for name in ("precision", "part")}
    return embed(there if cohort is None else cohort, run, out, **call, **again, resume=True)


def _folder(out: Path, origin: dict[str, Any], call: dict[str, Any], resume: bool) -> Path:
    """Start a folder, or check that one holds parts of the same embedding."""
    if not (resume and (out / "embeddings.json").is_file()):
        folder = require_empty(out)
        content = origin | {"call": call}
        write_json(folder / "embeddings.json", content, schema="embedding", version=VERSION)
        return folder
    before = read_json(out / "embeddings.json", schema="embedding", version=VERSION)
    changed = sorted(name for name in origin if before.get(name) != origin[name])
    if changed:
        raise RunError(
            f"{out} holds another embedding ({', '.join(changed)} differ); choose a new folder."
        )
    return out


def _features(
    backbone: Module,
    evaluation: Evaluation,
    rows: NDArray[np.int64],
    accelerator: Literal["cpu", "gpu"] | None,
    precision: str,
) -> NDArray[np.float32]:
    gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not gpu:
        raise ConfigError("A GPU is asked for and PyTorch sees none; set accelerator to 'cpu'.")
    device = torch.device("cuda" if gpu and accelerator != "cpu" else "cpu")
    backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return evaluation.run(
        lambda batch: backbone(batch.views[0]),
        backbone,
        rows,
        evaluation.prepare(device, backbone.in_channels, channels_last=True),  # type: ignore[arg-type]
        lambda: torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"),
    )


def _save(path: Path, array: NDArray[np.float32]) -> None:
    stream = io.BytesIO()
    np.save(stream, array)
    with atomic_writer(path) as file:
        file.write(stream.getbuffer())
