"""The runs of a transfer study: classifiers on features or pixels, networks trained on labels."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.base.files import atomic_writer
from scoutview.contract import Objective
from scoutview.data.batch import IGNORE, Batch
from scoutview.data.loader import Loader
from scoutview.data.sampler import PermutationSampler
from scoutview.data.samples import Samples
from scoutview.nn.backbones import Backbone, BackboneConfig, build_backbone
from scoutview.nn.optim_config import AdamConfig, StepSchedule
from scoutview.results.run import RunFolder
from scoutview.tasks.classification import Classification, ClassificationConfig
from scoutview.tasks.evaluation import Evaluation, Rows
from scoutview.tasks.features import cached, weights_hash
from scoutview.tasks.probe import (
    LinearProbe,
    LogisticRegression,
    Probed,
    RandomForest,
    fit_forest,
    fit_linear,
    macro_auc,
    missing_classes,
)
from scoutview.tasks.selection import Selection
from scoutview.tasks.targets import Targets
from scoutview.train.checkpoint import checkpoint_files, latest_checkpoint
from scoutview.train.config import FitConfig
from scoutview.train.devices import start_fabric
from scoutview.train.loop import fit
from scoutview.train.schedules import check_warmup
from scoutview.views.pipeline import Views
from scoutview.views.policy import EvalView, MultiCrop

log = logging.getLogger(__name__)


class FineTune(Config):
    """Train a network on the labels, whole or only its head."""

    kind: Literal["fine_tune", "frozen_head"] = "fine_tune"
    """"frozen_head" keeps the backbone and trains the head through it, with views if there are."""
    head: ClassificationConfig = ClassificationConfig()
    """The classifier. `freeze_backbone` follows from `kind`."""
    from_kept_head: bool = False
    """Start the hidden layer of the classifier from the layer that the pre-training run kept of its
    head (SimCLR v2), which also sets its width."""
    views: EvalView | MultiCrop | None = None
    """What training sees: null is the evaluation view, without anything random."""
    fit: FitConfig = FitConfig(
        epochs=100,
        batch_size=128,
        optimizer=AdamConfig(lr=1e-3, lr_per=None),
        schedule=StepSchedule(milestones=(50, 75), factor=0.1),
    )
    """Budget, optimiser, precision. The seed is the run's; a batch larger than the label subset is
    lowered to it."""
    epoch_choice: Literal["validation", "last"] = "validation"
    """Test the epoch with the largest validation AUC, or the last one."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a larger validation AUC; null trains to the end."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of finished runs."""


@dataclass(frozen=True)
class Start:
    """Where the weights of a backbone come from."""

    name: str
    """As in tables and figures."""
    kind: Literal["run", "file", "imagenet", "random", "supervised", "raw_pixels"]
    backbone: BackboneConfig
    """With the weights that it starts from."""
    method: str = ""
    """Method of the pre-training run, if there was one."""
    run: Path | None = None
    """Folder of the pre-training run, if there was one."""
    file: Path | None = None
    """File of weights, if they come from no run."""
    weights: str = ""
    """SHA-256 of the file of weights, "" if there is none."""

    def build(self, seed: int) -> Backbone:
        """Build the backbone; random parts depend on the seed and nothing else."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_backbone(self.backbone)


@dataclass(frozen=True)
class Images:
    """Labelled images of a cohort, N of them."""

    table: pd.DataFrame
    """Rows of the index, (N,)."""
    targets: Targets
    """(N, L)."""
    rows: Rows
    """Rows of the store, (N,)."""
    evaluation: Evaluation
    """How they become views."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    train: Rows
    """Training images after the label fraction was drawn, positions in `Images`."""
    val: Rows
    test: Rows
    fraction: float
    seed: int
    fold: int


@dataclass(frozen=True)
class Result:
    """What a run found."""

    val: NDArray[np.float64]
    """Probabilities of the validation images, (V, L)."""
    test: NDArray[np.float64]
    """Probabilities of the test images, (T, L)."""
    summary: dict[str, Any]
    """What `RunFolder.finish` is given."""


def features_of(
    images: Images, start: Start, *, seed: int, cache: Path, device: torch.device
) -> NDArray[np.float32]:
    """Compute the frozen backbone's features of all images, once per backbone, images and view."""
    backbone = start.build(seed)
    evaluation = images.evaluation

    def compute() -> NDArray[np.float32]:
        backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        prepare = evaluation.prepare(device, backbone.in_channels, channels_last=True)
        return evaluation.run(
            lambda batch: backbone(batch.views[0]), backbone, images.rows, prepare
        )

    key = f"{weights_hash(backbone)}-{evaluation.digest(images.rows)}"
    return cached(cache / f"{key}.npy", compute)


def pixels_of(images: Images, *, cache: Path) -> NDArray[np.float32]:
    """Read the evaluation view of all images as flat vectors, standardised as for a network."""
    evaluation = images.evaluation

    def compute() -> NDArray[np.float32]:
        channels = 3 if evaluation.data.channel == "colour" else 1
        prepare = evaluation.prepare(torch.device("cpu"), channels)
        return evaluation.run(
            lambda batch: batch.views[0].flatten(1), nn.Identity(), images.rows, prepare
        )

    return cached(cache / f"pixels-{evaluation.digest(images.rows)}.npy", compute)


def fit_classifier(
    mode: LinearProbe | LogisticRegression | RandomForest,
    numbers: NDArray[np.float32],
    images: Images,
    cell: Cell,
) -> Result:
    """Train a simple classifier on features or pixels and predict validation and test."""
    start_s = time.perf_counter()
    train = (numbers[cell.train], images.targets.of(cell.train))
    validation = (numbers[cell.val], images.targets.of(cell.val))
    found: Probed
    if isinstance(mode, RandomForest):
        found = fit_forest(mode, train, validation, seed=cell.seed)
        setting, offered = "min_leaf", len(mode.min_leaf)
    else:
        found = fit_linear(mode.l2, train, validation)
        setting, offered = "l2", len(mode.l2)
    chosen = {"chosen_by": f"{setting} = {found.setting:g}, by validation AUC"}
    summary = {
        "epoch_choice": "none",
        **(chosen if offered > 1 else {}),
        setting: found.setting,
        "validation_auc": found.validation_auc,
        "samples_seen": len(cell.train),
        "time_s": time.perf_counter() - start_s,
        "notes": list(found.notes),
    }
    return Result(found.predict(numbers[cell.val]), found.predict(numbers[cell.test]), summary)


class _Enough(Exception):  # noqa: N818 - a signal, not an error
    """Patience has run out."""


class _Stopping:
    """A loader that ends training when validation has had enough."""

    def __init__(self, source: Any, selection: Selection) -> None:
        self._source = source
        self._selection = selection

    def batches(self, start: int) -> Iterator[Batch]:
        for batch in self._source.batches(start):
            if self._selection.exhausted:
                raise _Enough
            yield batch

    def sweep(self) -> Iterator[Batch]:
        return self._source.sweep()  # type: ignore[no-any-return]


def fit_network(
    mode: FineTune,
    start: Start,
    images: Images,
    cell: Cell,
    run: RunFolder,
    *,
    resume: bool,
) -> Result:
    """Train a network on the labels, choose the epoch, and predict validation and test once."""
    evaluation = images.evaluation
    targets = images.targets.of(cell.train).for_loss(IGNORE)
    samples = Samples(evaluation.store, images.rows[cell.train], evaluation.data, targets=targets)
    config = fitted_config(mode, len(samples), cell.seed)
    fabric = start_fabric(config)
    objective = _objective(mode, start, images.targets, cell.seed).to(fabric.device)
    channels = objective.backbone.in_channels
    prepare = evaluation.prepare(fabric.device, channels, channels_last=config.channels_last)

    def predict(network: Objective, rows: Rows) -> NDArray[np.float64]:
        assert isinstance(network, Classification)
        found = evaluation.run(
            network.predict, network, images.rows[rows], prepare, fabric.autocast
        )
        return found.astype(np.float64)

    validation = images.targets.of(cell.val)
    selection = Selection(
        lambda network: predict(network, cell.val),
        lambda probabilities: macro_auc(validation, probabilities),
        run.checkpoints / "selected.safetensors",
        patience=mode.patience,
        keep_best=mode.epoch_choice == "validation",
    )
    per_epoch = config.steps_per_epoch(len(samples))
    if resume:
        checkpoint = latest_checkpoint(run.checkpoints)
        selection.resume(checkpoint.step // per_epoch if checkpoint else 0)
    source = Loader(
        samples,
        Views(mode.views or evaluation.view),
        PermutationSampler(len(samples), config.batch_size, seed=cell.seed),
        seed=cell.seed,
        threads=evaluation.threads,
    )
    try:
        time_s = fit(
            objective,
            _Stopping(source, selection),
            config,
            run,
            fabric=fabric,
            dataset_size=len(samples),
            prepare=prepare,
            probes=[selection],
            resume=resume,
        ).time_s
    except _Enough:
        time_s = float(run.metrics()["time_s"].iloc[-1])  # the validation that stopped it
        log.info("%s: validation has not improved for %s epochs.", run.name, mode.patience)
    selection.restore(objective)
    epochs = max(selection.history)
    notes = list(missing_classes(images.targets.of(cell.train)))
    if config.batch_size != mode.fit.batch_size:
        notes.append(
            f"The batch was lowered from {mode.fit.batch_size} to the {config.batch_size} images"
            " of the label subset."
        )
    summary = {
        "epoch_choice": mode.epoch_choice,
        "chosen_epoch": selection.best,
        "epochs": epochs,
        "validation_auc": selection.history[selection.best],
        "samples_seen": epochs * per_epoch * config.batch_size,
        "time_s": time_s,
        "notes": notes,
    }
    _write_backbone(objective.backbone, run)
    return Result(predict(objective, cell.val), predict(objective, cell.test), summary)


def fitted_config(mode: FineTune, count: int, seed: int) -> FitConfig:
    """Give the run its seed, and a batch that is no larger than the label subset.

    Raises:
        ConfigError: More than one process is asked for, or the warm-up never ends.
    """
    if mode.fit.world > 1:
        raise ConfigError(
            f"A transfer run trains in one process, got devices x nodes = {mode.fit.world}; set"
            " both to 1 and run several transfers side by side with experiment."
        )
    config = mode.fit.model_copy(update={"seed": seed})
    if count < config.batch_size:
        lowered = max(config.accumulate, count - count % config.accumulate)
        config = config.model_copy(update={"batch_size": lowered})
    check_warmup(
        config.schedule,
        total_steps=config.total_steps(count),
        steps_per_epoch=config.steps_per_epoch(count),
    )
    return config


def _objective(mode: FineTune, start: Start, targets: Targets, seed: int) -> Classification:
    backbone = start.build(seed)
    head = mode.head.model_copy(update={"freeze_backbone": mode.kind == "frozen_head"})
    layers = _kept_head(mode, start) if mode.from_kept_head else {}
    if layers:
        head = head.model_copy(update={"hidden_dim": len(layers["0.weight"]), "batch_norm": True})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        objective = Classification(backbone, head, labels=targets.spec)
    if layers:
        objective.head[:3].load_state_dict(layers)
    return objective


def _kept_head(mode: FineTune, start: Start) -> dict[str, Tensor]:
    """Read the layer that a run kept of its head: linear, batch norm, ReLU.

    Raises:
        ConfigError: The start is no run that kept one, or the head has a width of its own.
    """
    if mode.head.hidden_dim is not None:
        raise ConfigError(
            "from_kept_head sets the width of the classifier's hidden layer, got"
            f" head.hidden_dim = {mode.head.hidden_dim} as well; leave one of the two out."
        )
    file = RunFolder.open(start.run).kept_head if start.run is not None else None
    if file is None or not file.is_file():
        raise ConfigError(
            "from_kept_head needs a pre-training run that kept a layer of its head, as simclr_v2"
            f" does; {start.name} has none, so leave it out."
        )
    return load_file(file)


def _write_backbone(backbone: Backbone, run: RunFolder) -> None:
    state = backbone.model.state_dict()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_writer(run.backbone) as stream:
        stream.write(save_tensors(tensors))


def predictions(images: Images, cell: Cell, result: Result) -> pd.DataFrame:
    """Lay predictions out as predictions.parquet has them: one row per split, image and label."""
    parts = []
    for split, rows, scores in (("val", cell.val, result.val), ("test", cell.test, result.test)):
        table, targets = images.table.iloc[rows], images.targets.of(rows)
        for k, label in enumerate(targets.columns):
            part = {
                "image_id": table["image_id"].to_numpy(),
                "patient_id": table["patient_id"].to_numpy(),
                "split": split,
                "fold": cell.fold,
                "label": label,
                "target": targets.values[:, k],
                # float32 sums of a softmax may pass 1 by a rounding error
                "score": np.clip(scores[:, k], 0.0, 1.0),
            }
            parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def remove_checkpoints(run: RunFolder) -> None:
    """Delete what only a resume would need."""
    for file in [*checkpoint_files(run.checkpoints), *run.checkpoints.glob("selected.*")]:
        file.unlink(missing_ok=True)
