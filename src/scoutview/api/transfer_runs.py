"""The runs of a transfer study: classifiers on features or pixels, networks trained on labels."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.base.files import atomic_writer
from scoutview.contract import Objective
from scoutview.data.batch import IGNORE, Batch
from scoutview.data.loader import Loader, widen
from scoutview.data.sampler import PermutationSampler
from scoutview.data.samples import DataConfig, Samples
from scoutview.nn.backbones import Backbone, BackboneConfig, build_backbone
from scoutview.nn.optim_config import AdamConfig, StepSchedule
from scoutview.results.run import RunFolder
from scoutview.store.reader import Store
from scoutview.tasks.classification import Classification, ClassificationConfig
from scoutview.tasks.features import averaged, cached, content_hash, outputs, weights_hash
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
from scoutview.views.pipeline import Views
from scoutview.views.policy import EvalView, MultiCrop

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]


class FineTune(Config):
    """Train a network on the labels, whole or only its head."""

    kind: Literal["fine_tune", "frozen_head"] = "fine_tune"
    """"frozen_head" keeps the backbone and trains the head through it, with views if there are."""
    head: ClassificationConfig = ClassificationConfig()
    """The classifier. `freeze_backbone` follows from `kind`."""
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

    def build(self, seed: int) -> Backbone:
        """Build the backbone; random parts depend on the seed and nothing else."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_backbone(self.backbone)


@dataclass(frozen=True)
class Images:
    """Labelled images of a cohort, N of them, and how they become views."""

    table: pd.DataFrame
    """Rows of the index, (N,)."""
    targets: Targets
    """(N, L)."""
    store: Store
    """Where the pixels are."""
    rows: Rows
    """Their rows in the store, (N,)."""
    data: DataConfig
    """Slices, intensity, channel."""
    view: EvalView
    """What validation, test and probes see."""
    mean: float
    std: float
    batch_size: int
    """Images per forward pass of evaluation."""
    threads: int
    """Threads that make views."""

    def samples(self, chosen: Rows) -> Samples:
        """Lay out the samples of some images, with targets."""
        targets = self.targets.of(chosen).for_loss(IGNORE)
        return Samples(self.store, self.rows[chosen], self.data, targets=targets)

    def evaluate(
        self,
        network: Callable[[Batch], Tensor],
        module: nn.Module,
        chosen: Rows,
        prepare: Callable[[Batch], Batch],
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> NDArray[np.float32]:
        """Run a network on the evaluation views of some images, (M, D); slices are averaged."""
        samples = self.samples(chosen)
        view = Views(self.view)
        # A sweep draws no batches; the sampler is there because a loader has one.
        sampler = PermutationSampler(len(samples), 1, seed=0)
        loader = Loader(
            samples,
            view,
            sampler,
            seed=0,
            threads=self.threads,
            sweep_views=view,
            sweep_batch=self.batch_size,
        )
        found = outputs(
            network, module, loader.sweep(), prepare, count=len(samples), autocast=autocast
        )
        image, _, _ = samples.locate(np.arange(len(samples)))
        return averaged(found, image, len(chosen))

    def prepare(
        self, device: torch.device, channels: int, *, channels_last: bool = False
    ) -> Callable[[Batch], Batch]:
        """Give what moves a batch to a device and widens it for a backbone."""

        def prepare(batch: Batch) -> Batch:
            moved = batch.to(device, non_blocking=True)
            wide = widen(moved, channels=channels, mean=self.mean, std=self.std)
            return in_layout(wide) if channels_last else wide

        return prepare

    def recipe(self) -> str:
        """Digest of all that the evaluation views depend on."""
        return content_hash(
            self.table["image_id"].tolist(),
            self.store.hashes()["content_hash"].iloc[self.rows].tolist(),
            self.view.model_dump(mode="json"),
            self.data.model_dump(mode="json", exclude={"where", "split"}),
            (self.mean, self.std),
        )


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
    key = f"{weights_hash(backbone)}-{images.recipe()}"

    def compute() -> NDArray[np.float32]:
        backbone.to(device)
        return images.evaluate(
            lambda batch: backbone(batch.views[0]),
            backbone,
            np.arange(len(images.table)),
            images.prepare(device, backbone.in_channels, channels_last=True),
        )

    return cached(cache / f"{key}.npy", compute)


def pixels_of(images: Images, *, cache: Path) -> NDArray[np.float32]:
    """Read the evaluation view of all images as flat vectors, standardised as for a network."""

    def compute() -> NDArray[np.float32]:
        channels = 3 if images.data.channel == "colour" else 1
        return images.evaluate(
            lambda batch: batch.views[0].flatten(1),
            nn.Identity(),
            np.arange(len(images.table)),
            images.prepare(torch.device("cpu"), channels),
        )

    return cached(cache / f"pixels-{images.recipe()}.npy", compute)


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
        setting = "min_leaf"
    else:
        found = fit_linear(mode.l2, train, validation)
        setting = "l2"
    summary = {
        "epoch_choice": "validation",
        "chosen_by": f"{setting} = {found.setting:g}, by validation AUC",
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
    samples = images.samples(cell.train)
    config = fitted_config(mode, len(samples), cell.seed)
    fabric = start_fabric(config)
    objective = _objective(mode, start, images.targets, cell.seed).to(fabric.device)
    channels = objective.backbone.in_channels
    prepare = images.prepare(fabric.device, channels, channels_last=config.channels_last)

    def predict(network: Objective, rows: Rows) -> NDArray[np.float64]:
        assert isinstance(network, Classification)
        found = images.evaluate(network.predict, network, rows, prepare, fabric.autocast)
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
        Views(mode.views or images.view),
        PermutationSampler(len(samples), config.batch_size, seed=cell.seed),
        seed=cell.seed,
        threads=images.threads,
    )
    start_s = time.perf_counter()
    try:
        fit(
            objective,
            _Stopping(source, selection),
            config,
            run,
            fabric=fabric,
            dataset_size=len(samples),
            prepare=prepare,
            probes=[selection],
            resume=resume,
        )
    except _Enough:
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
        "time_s": time.perf_counter() - start_s,
        "notes": notes,
    }
    _write_backbone(objective.backbone, run)
    return Result(predict(objective, cell.val), predict(objective, cell.test), summary)


def fitted_config(mode: FineTune, count: int, seed: int) -> FitConfig:
    """Give the run its seed, and a batch that is no larger than the label subset.

    Raises:
        ConfigError: More than one process is asked for.
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
    return config


def _objective(mode: FineTune, start: Start, targets: Targets, seed: int) -> Classification:
    backbone = start.build(seed)
    head = mode.head.model_copy(update={"freeze_backbone": mode.kind == "frozen_head"})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classification(backbone, head, labels=targets.spec)


def in_layout(batch: Batch) -> Batch:
    """Put the channels of all 2D views last in memory."""
    layout = torch.channels_last
    views = [v.contiguous(memory_format=layout) if v.ndim == 4 else v for v in batch.views]
    return dataclasses.replace(batch, views=views)


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
