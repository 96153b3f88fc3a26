"""`transfer`: cohort, task and initialisation in; a study of one run per label subset out."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from scoutview.api.embed import embed
from scoutview.api.index import open_cohort
from scoutview.api.store import stored
from scoutview.api.transfer_runs import (
    Cell,
    FineTune,
    Images,
    Result,
    Start,
    features_of,
    fit_classifier,
    fit_network,
    pixels_of,
    predictions,
    remove_checkpoints,
)
from scoutview.base.config import Config
from scoutview.base.errors import ConfigError, DataError, LeakageError, RunError, unknown
from scoutview.base.progress import bar
from scoutview.data.samples import DataConfig, Samples
from scoutview.index.cohort import Cohort
from scoutview.index.labels import Policy
from scoutview.nn.backbones import BackboneConfig
from scoutview.results.provenance import environment
from scoutview.results.run import RunFolder
from scoutview.results.study import Initialisation, Study
from scoutview.stats.comparison import check_distinct
from scoutview.store.duplicates import find_duplicates, known_duplicates
from scoutview.store.reader import Store
from scoutview.tasks import TASKS
from scoutview.tasks.evaluation import Evaluation, Rows
from scoutview.tasks.leakage import (
    OnLeak,
    check_parts,
    check_patients,
    check_pretraining,
    resolve_copies,
)
from scoutview.tasks.probe import LinearProbe, LogisticRegression, RandomForest
from scoutview.tasks.subsets import label_subset
from scoutview.tasks.targets import read_targets
from scoutview.views.policy import EvalView

log = logging.getLogger(__name__)

Mode = Annotated[
    LinearProbe | FineTune | LogisticRegression | RandomForest, Field(discriminator="kind")
]


class TransferConfig(Config):
    """What is trained on which labels. Everything but `mode` is shared by what is compared."""

    mode: Mode = LinearProbe()
    """What is trained: "linear_probe", "fine_tune", "frozen_head"; on raw pixels
    "logistic_regression" or "random_forest"."""
    labels: tuple[str, ...] = ()
    """Labels to learn; empty takes all of the cohort."""
    uncertain: Policy = "ignore"
    """What an uncertain label counts as: "ones", "zeros" or "ignore"."""
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (1.0,)
    """Shares of the labelled training patients to learn from, each in (0, 1]."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0, 1, 2, 3, 4)
    """Each seed draws its own label subset and its own training."""
    folds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Cross-validation folds to test on, validation is the next fold; empty uses the cohort's
    train, val and test."""
    on_leak: OnLeak = "refuse"
    """Copies of images across the split: "refuse", "drop" the copies from train, or "allow"."""
    backbone: BackboneConfig = BackboneConfig()
    """Network of "random", "imagenet" and weight files; a pre-training run brings its own."""
    backbone_seed: int = Field(default=0, ge=0)
    """Seed of a random backbone that is only probed: one backbone, as there is one of each
    pre-training. Fine-tuning draws a new start per seed."""
    view: EvalView = EvalView()
    """What validation, test and probes see. Where `view`, `mean`, `std` or the intensity are not
    written, a pre-training run brings its own."""
    data: DataConfig = DataConfig()
    """Which images (`where`), slices of volumes and intensities. `split` stays null: a transfer
    needs all parts. Outputs of a volume's slices are averaged."""
    mean: float = 0.5
    """Subtracted from grey values in [0, 1]."""
    std: float = Field(default=0.5, gt=0)
    """Grey values are divided by it."""
    batch_size: int = Field(default=256, ge=1)
    """Images per forward pass of evaluation."""
    threads: int = Field(default=1, ge=0)
    """Threads that read images and make views."""
    name: str | None = None
    """Name of the initialisation in tables; null takes the method's, the file's or the kind's."""
    title: str = ""
    """What the results page is called."""


def transfer(
    cohort: str | Path | Cohort,
    task: str,
    initialisation: str | Path | Sequence[str | Path],
    out: str | Path,
    config: TransferConfig | None = None,
    *,
    resume: bool = False,
) -> Path:
    """Measure what an initialisation is worth on a task.

    Args:
        cohort: The cohort, or its folder; a missing store is built first.
        task: "classification".
        initialisation: A pre-training run's folder, a file of weights, "imagenet" or "random".
            Baselines on raw pixels take "raw_pixels". "random" with fine-tuning is what tables call
            "supervised". Several share the settings; all are read before the first is trained. Each
            may be written as "NAME=PATH" to name it.
        out: Folder of the study: a new one, or with `resume` one that exists.
        config: Settings; the defaults are a linear probe on all labels with five seeds.
        resume: Go on with a study: finished runs are kept, stopped ones go on, missing ones start;
            a further initialisation is added to those that the study has.

    Returns:
        The study's folder.

    Raises:
        ConfigError: A name is unknown or settings do not fit each other.
        DataError: A part has no labelled image.
        LeakageError: Patients or copies cross the split, or test images were pre-trained on.
        RunError: `out` has content and `resume` is not set.
    """
    config = config or TransferConfig()
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    given = [initialisation] if isinstance(initialisation, str | Path) else initialisation
    return _transfer(open_cohort(cohort), task, read_starts(given, config), out, config, resume)


def resume_transfer(study: str | Path, cohort: str | Path | Cohort | None = None) -> Path:
    """Go on with a study that was stopped; it holds what it was asked for.

    Args:
        study: Its folder.
        cohort: The cohort if it has moved, or its folder.

    Returns:
        The study's folder.

    Raises:
        RunError: There is no study, or it comes from a scoutview that did not write down settings.
    """
    begun = Study.open(study)
    if not begun.content.calls:
        raise RunError(
            f"{study} does not say what it was asked for (an older scoutview made it); call"
            " transfer with all arguments and resume."
        )
    whole = open_cohort(begun.cohort.resolve() if cohort is None else cohort)
    for call in begun.content.calls:
        config = TransferConfig.build(call.settings)
        known = [begun.initialisation(name) for name in call.initialisations]
        starts = tuple(_start_again(begun, one, config) for one in known)
        _transfer(whole, begun.content.task, starts, begun.path, config, resume=True)
    return begun.path


def _start_again(study: Study, known: Initialisation, config: TransferConfig) -> Start:
    """Find the initialisation of a study again."""
    place = known.run or known.file
    word = "random" if known.kind == "supervised" else known.kind
    start = read_start((study.path / place).resolve() if place else word, config)
    return replace(start, name=known.name)


def _transfer(
    whole: Cohort,
    task: str,
    starts: Sequence[Start],
    out: str | Path,
    config: TransferConfig,
    resume: bool,
) -> Path:
    arms = [_prepare(start, whole, config) for start in starts]
    study = _study(out, task, whole, config, resume)
    for arm in arms:
        _require_same_runs(study, arm)
    for start in starts:
        study.add_initialisation(
            start.name,
            start.kind,
            method=start.method,
            run=start.run,
            file=start.file,
            weights=start.weights,
        )
    study.add_call([start.name for start in starts], _plain(config.written()))
    for arm in arms:
        _train(study, arm)
        _embed(study, arm, whole)
    return study.path


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out a path of weights, which would name the machine; the study has it elsewhere."""
    if "backbone" in settings:
        kept = {name: value for name, value in settings["backbone"].items() if name != "weights"}
        settings = settings | {"backbone": kept}
    return settings


@dataclass(frozen=True)
class _Arm:
    """All that is decided about an initialisation before anything is trained or written."""

    start: Start
    config: TransferConfig
    images: Images
    blocks: dict[int, dict[str, Rows]]
    notes: list[str]
    dropped: list[dict[str, Any]]


def _prepare(start: Start, whole: Cohort, config: TransferConfig) -> _Arm:
    """Select an initialisation's images and divide them."""
    config, seen_otherwise = _as_pretrained(start, config)
    part = whole.where(config.data.where)
    store = stored(part)
    images = _images(part, store, config)
    pairs = known_duplicates(store, part)
    blocks, notes, dropped = _split(images, pairs, config)
    notes += seen_otherwise
    notes += _seen_in_pretraining(start, part, images, blocks, config)
    return _Arm(start, config, images, blocks, notes, dropped)


def _train(study: Study, arm: _Arm) -> None:
    """Fill the grid of an initialisation."""
    name = arm.start.name
    _add_details(study, arm.notes, arm.dropped)
    cells = list(_cells(arm.images, arm.blocks, arm.config))
    with bar(f"transfer {name}", total=len(cells)) as shown:
        for position, cell in enumerate(cells):
            log.info("%s: run %d of %d", name, position + 1, len(cells))
            _run(study, arm.start, arm.images, cell, arm.config)
            shown.advance()
    _check_repetitions(study, arm.start, arm.config)


def _embed(study: Study, arm: _Arm, whole: Cohort) -> None:
    """Compute what the page's map and neighbours show: pre-trained features of labelled images."""
    run, place = arm.start.run, study.embeddings_folder(arm.start.name)
    if run is not None and not (place / "embeddings.parquet").is_file():
        embed(whole.select(arm.images.table["image_id"]), run, place, resume=place.exists())


# ------------------------------------------------------------------ initialisation


def read_starts(initialisations: Sequence[str | Path], config: TransferConfig) -> tuple[Start, ...]:
    """Find out what several initialisations are, which must differ in name.

    Raises:
        ConfigError: Two have the same name, or one is nothing that `read_start` knows.
    """
    starts = tuple(read_start(one, config) for one in initialisations)
    counts = Counter(start.name for start in starts)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(
            f"Initialisations need different names, but {', '.join(twice)} comes more than once;"
            f" name each as NAME=PATH, for example first={initialisations[0]}."
        )
    return starts


def split_name(initialisation: str | Path) -> tuple[str | None, str]:
    """Divide "NAME=PATH"; the name is None where there is none, or "=" is part of a path."""
    word = str(initialisation)
    name, equals, place = word.partition("=")
    if not (name and equals) or "/" in name or Path(word).exists():
        return None, word
    return name, place


def read_start(initialisation: str | Path, config: TransferConfig) -> Start:
    """Find out what an initialisation is, and what it is called: its own name, then `config.name`.

    Raises:
        ConfigError: It is neither a run, a file, nor a known name, or does not fit the mode.
    """
    pixels = isinstance(config.mode, LogisticRegression | RandomForest)
    name, word = split_name(initialisation)
    name = name or config.name
    if pixels != (word == "raw_pixels"):
        raise ConfigError(
            f"Mode {config.mode.kind!r} with initialisation {word!r}: raw pixels need both the"
            " initialisation 'raw_pixels' and the mode 'logistic_regression' or 'random_forest'."
        )
    trained = isinstance(config.mode, FineTune) and config.mode.kind == "fine_tune"
    if word == "raw_pixels":
        return Start(name or word, "raw_pixels", config.backbone)
    if word == "random":
        kind: Literal["supervised", "random"] = "supervised" if trained else "random"
        bare = config.backbone.model_copy(update={"weights": None})
        return Start(name or kind, kind, bare)
    if word == "imagenet":
        public = config.backbone.model_copy(update={"weights": "imagenet"})
        return Start(name or word, "imagenet", public)
    path = Path(word)
    if (path / "config.json").is_file():
        return _start_of_run(path, name)
    if path.is_file():
        loaded = config.backbone.model_copy(update={"weights": str(path)})
        digest = _sha256(path)
        return Start(name or path.stem, "file", loaded, file=path, weights=digest)
    raise ConfigError(
        f"Initialisation {word!r} is neither a run folder, a file of weights, 'imagenet', 'random'"
        " nor 'raw_pixels'; check the path."
    )


def _start_of_run(path: Path, name: str | None) -> Start:
    run = RunFolder.open(path)
    if not run.backbone.is_file():
        raise ConfigError(f"{path} has no backbone.safetensors; finish the run with --resume.")
    values = dict(run.config["backbone"])
    backbone = BackboneConfig.build(values | {"weights": str(run.backbone)})
    method = str(run.config["method"]["name"])
    weights = _sha256(run.backbone)
    return Start(name or method, "run", backbone, method=method, run=path, weights=weights)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def like_run(config: TransferConfig, run: str | Path) -> TransferConfig:
    """Let what the user left open follow a pre-training run, for all that is compared with it.

    Args:
        config: Settings of a transfer.
        run: The run whose backbone, view and grey values hold where `config` is silent.

    Raises:
        RunError: There is no run.
    """
    values = RunFolder.open(run).config
    theirs: dict[str, Any] = {
        "backbone": BackboneConfig.build(dict(values["backbone"]) | {"weights": None}),
        "view": EvalView.build(values["view"]),
        "mean": values["mean"],
        "std": values["std"],
    }
    silent = {k: v for k, v in theirs.items() if k not in config.model_fields_set}
    before = DataConfig.build(values["data"])
    data = {"intensity": before.intensity, "channel": before.channel}
    unwritten = {k: v for k, v in data.items() if k not in config.data.model_fields_set}
    silent["data"] = config.data.model_copy(update=unwritten)
    return config.model_copy(update=silent)


def _as_pretrained(start: Start, config: TransferConfig) -> tuple[TransferConfig, list[str]]:
    """Show a pre-trained backbone what it was trained on, unless the user wrote something else."""
    if start.run is None:
        return config, []
    values = RunFolder.open(start.run).config
    before = DataConfig.build(values["data"])
    theirs: dict[str, Any] = {
        "view": EvalView.build(values["view"]),
        "mean": values["mean"],
        "std": values["std"],
    }
    data: dict[str, Any] = {"intensity": before.intensity, "channel": before.channel}
    written = config.model_fields_set
    notes = [
        f"{start.name} was pre-trained with another {name} than this transfer uses."
        for name in theirs
        if name in written and getattr(config, name) != theirs[name]
    ]
    notes += [
        f"{start.name} was pre-trained with another {name} policy than this transfer uses."
        for name in data
        if name in config.data.model_fields_set and getattr(config.data, name) != data[name]
    ]
    for note in notes:
        log.warning("%s", note)
    kept = {k: v for k, v in data.items() if k not in config.data.model_fields_set}
    update = {k: v for k, v in theirs.items() if k not in written}
    update["data"] = config.data.model_copy(update=kept)
    return config.model_copy(update=update), notes


# ------------------------------------------------------------------ images and split


def _images(part: Cohort, store: Store, config: TransferConfig) -> Images:
    """Select the images that have a label and pixels."""
    if config.data.split is not None:
        raise ConfigError(
            f"transfer needs train, val and test, got data.split = {config.data.split!r}; leave it"
            " out, and select images with data.where."
        )
    targets = read_targets(part.table, part.labels, config.labels, uncertain=config.uncertain)
    rows = store.row_of(part.table["image_id"])
    keep = np.flatnonzero(targets.known & store.present()[rows])
    if not len(keep):
        raise DataError("No selected image has both a label and pixels; see problems.csv.")
    return Images(
        table=part.table.iloc[keep].reset_index(drop=True),
        targets=targets.of(keep),
        rows=rows[keep],
        evaluation=Evaluation(
            store,
            config.data,
            config.view,
            config.mean,
            config.std,
            config.batch_size,
            config.threads,
        ),
    )


def _split(
    images: Images, pairs: pd.DataFrame, config: TransferConfig
) -> tuple[dict[int, dict[str, Rows]], list[str], list[dict[str, Any]]]:
    """Divide images into train, val and test for every fold, without copies across them."""
    blocks: dict[int, dict[str, Rows]] = {}
    notes: list[str] = []
    dropped: list[dict[str, Any]] = []
    ids = images.table["image_id"]
    for fold in config.folds or (-1,):
        part = _part_of(images.table, fold)
        try:
            check_patients(pd.DataFrame({"patient_id": images.table["patient_id"], "part": part}))
        except LeakageError as error:
            if config.on_leak != "allow":
                raise
            notes.append(f"{error} This was allowed.")
        parts = pd.Series(part.to_numpy(), index=ids)
        found = resolve_copies(parts, pairs, config.on_leak)
        kept = parts[~parts.index.isin(found.drop)]
        check_parts(kept, folds=int(images.table["fold"].max()) + 1 if fold < 0 else 0)
        left_out = parts.index.isin(found.drop)
        blocks[fold] = {
            name: np.flatnonzero((part.to_numpy() == name) & ~left_out)
            for name in ("train", "val", "test")
        }
        notes += found.notes
        dropped += found.dropped
    return blocks, notes, dropped


def _part_of(table: pd.DataFrame, fold: int) -> pd.Series:
    if fold < 0:
        return table["split"].astype(str)
    folds = table["fold"].to_numpy()
    count = int(folds.max()) + 1
    if count < 3 or fold >= count:
        raise ConfigError(
            f"Fold {fold} needs a cohort with at least 3 folds and more than {fold}, this one has"
            f" {max(0, count)}; index it with a k-fold split."
        )
    part = np.full(len(table), "train", dtype=object)
    part[folds == fold] = "test"
    part[folds == (fold + 1) % count] = "val"
    part[folds < 0] = ""
    return pd.Series(part, index=table.index)


def _seen_in_pretraining(
    start: Start,
    part: Cohort,
    images: Images,
    blocks: dict[int, dict[str, Rows]],
    config: TransferConfig,
) -> list[str]:
    """Look for test images in the set that the backbone was pre-trained on."""
    if start.run is None:
        return []
    seen = pretraining_images(RunFolder.open(start.run))
    if seen is None:
        return [
            f"{start.name}: the pre-training cohort is not there, so nobody looked for test images"
            " in it."
        ]
    store = images.evaluation.store
    same = seen.folder.resolve() == part.folder.resolve()
    same = same and store.has(seen.table["image_id"])
    pairs = find_duplicates(store, part, against=(store if same else stored(seen), seen))
    tested = np.unique(np.concatenate([block["test"] for block in blocks.values()]))
    test = images.table["image_id"].iloc[tested].tolist()
    allow = config.on_leak == "allow"
    by = "pixels are equal or nearly so"
    return list(check_pretraining(test, pairs["image_id_a"].tolist(), allow=allow, by=by))


def pretraining_images(run: RunFolder) -> Cohort | None:
    """Open the part of a cohort that a run was pre-trained on; None if it is not there."""
    values = run.config
    folder = (run.path / str(values["cohort"])).resolve()
    if not (folder / "cohort.json").is_file():
        return None
    data = DataConfig.build(values["data"])
    part = Cohort.open(folder).where(data.where)
    return part.split(data.split) if data.split else part


# ------------------------------------------------------------------ study and runs


def _study(
    out: str | Path, task: str, cohort: Cohort, config: TransferConfig, resume: bool
) -> Study:
    if not (resume and (Path(out) / "study.json").is_file()):
        return Study.create(
            out, task=task, cohort=cohort.folder, images=_identity(cohort), title=config.title
        )
    study = Study.open(out)
    if study.content.task != task:
        raise ConfigError(
            f"{out} is a study of task {study.content.task!r}, got {task!r}; choose a new folder."
        )
    study.find_cohort(cohort.folder, _identity(cohort))
    return study


def _identity(cohort: Cohort) -> str:
    """Fingerprint of a cohort's images and their split; a copy elsewhere has the same."""
    digest = hashlib.sha256()
    for name in ("image_id", "patient_id", "split", "fold"):
        digest.update("\n".join(cohort.table[name].astype(str)).encode())
    return digest.hexdigest()


def _add_details(study: Study, notes: list[str], dropped: list[dict[str, Any]]) -> None:
    """Add what a reader must know; the same again changes nothing."""
    known = study.content.details
    all_notes = list(dict.fromkeys([*known.get("notes", []), *notes]))
    all_dropped = list(known.get("dropped_duplicates", []))
    all_dropped += [group for group in dropped if group not in all_dropped]
    study.add_details(notes=all_notes, dropped_duplicates=all_dropped)


def _cells(
    images: Images, blocks: dict[int, dict[str, Rows]], config: TransferConfig
) -> Iterator[Cell]:
    """Walk through the grid: folds, fractions, seeds."""
    for fold, block in blocks.items():
        train = block["train"]
        patients = images.table["patient_id"].to_numpy()[train]
        values = images.targets.values[train]
        for fraction in config.fractions:
            for seed in _seeds(config, fraction):
                chosen = label_subset(patients, values, fraction=fraction, seed=seed, fold=fold)
                yield Cell(train[chosen], block["val"], block["test"], fraction, seed, fold)


def _seeds(config: TransferConfig, fraction: float) -> tuple[int, ...]:
    """Take one seed where nothing is random: an exact solver on all labels repeats itself."""
    exact = isinstance(config.mode, LinearProbe | LogisticRegression)
    return config.seeds[:1] if exact and fraction == 1 else config.seeds


def _run(
    study: Study,
    start: Start,
    images: Images,
    cell: Cell,
    config: TransferConfig,
) -> None:
    """Train, predict and finish one run, unless it has finished already."""
    mode = config.mode
    _, path = study.add_run(
        initialisation=start.name,
        method=mode.kind,
        fraction=cell.fraction,
        seed=cell.seed,
        fold=cell.fold,
    )
    known = (path / "config.json").is_file()
    if known:
        run = RunFolder.open(path)
        if run.finished:
            return
    else:
        samples = Samples(images.evaluation.store, images.rows, config.data)
        values = _run_values(study, start, cell, config) | {
            "intensity_used": samples.written_policies()
        }
        run = RunFolder.create(path, values, environment())
    cache = study.path / "cache"
    result: Result
    if isinstance(mode, FineTune):
        result = fit_network(mode, start, images, cell, run, resume=known)
    elif isinstance(mode, LinearProbe):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        numbers = features_of(images, start, seed=config.backbone_seed, cache=cache, device=device)
        result = fit_classifier(mode, numbers, images, cell)
    else:
        result = fit_classifier(mode, pixels_of(images, cache=cache), images, cell)
    run.write_predictions(predictions(images, cell, result))
    run.finish(result.summary | {"train_images_sha256": _digest(images, cell)})
    if not (isinstance(mode, FineTune) and mode.keep_checkpoints):
        remove_checkpoints(run)


def _digest(images: Images, cell: Cell) -> str:
    """Fingerprint of the training images: what is compared must have learnt from the same."""
    ids = sorted(images.table["image_id"].iloc[cell.train])
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _run_values(study: Study, start: Start, cell: Cell, config: TransferConfig) -> dict[str, Any]:
    """Everything that decides what a run computes, as plain values for config.json."""
    # a path of weights would name the machine; the study says which initialisation it was
    plain: dict[str, Any] = json.loads(config.model_dump_json(exclude={"backbone": {"weights"}}))
    return {
        "verb": "transfer",
        "task": study.content.task,
        "initialisation": start.name,
        "kind": start.kind,
        "method": config.mode.kind,
        "fraction": cell.fraction,
        "seed": cell.seed,
        "fold": cell.fold,
        "view": plain["view"],
        "data": plain["data"],
        "mean": config.mean,
        "std": config.std,
        "images": {"train": len(cell.train), "val": len(cell.val), "test": len(cell.test)},
        "backbone": json.loads(start.backbone.model_dump_json(exclude={"weights"})),
        "transfer": {
            name: value
            for name, value in plain.items()
            # the grid belongs to the study; a longer one must not change the runs that are there
            if name not in ("fractions", "seeds", "folds", "title", "name")
        },
    }


def _require_same_runs(study: Study, arm: _Arm) -> None:
    """Refuse other settings than those of runs that are there, before anything is written."""
    start, config = arm.start, arm.config
    cells = _cells(arm.images, arm.blocks, config)
    places = {(cell.fraction, cell.seed, cell.fold): cell for cell in cells}
    for entry, run in study.runs():
        cell = places.get((entry.fraction, entry.seed, entry.fold))
        ours = (entry.initialisation, entry.method) == (start.name, config.mode.kind)
        if cell is not None and ours:
            _require_same(run, _run_values(study, start, cell, config))


def _require_same(run: RunFolder, values: dict[str, Any]) -> None:
    before = run.config
    changed = sorted(name for name in values if before.get(name) != values[name])
    if changed:
        raise ConfigError(
            f"{run.name} was started with other settings ({', '.join(changed)}); use the same to"
            " resume it, or choose a new folder."
        )


def _check_repetitions(study: Study, start: Start, config: TransferConfig) -> None:
    """Refuse seeds that gave the same predictions to the last bit; name what was not repeated."""
    places: dict[tuple[float, int], list[tuple[str, int, Any]]] = {}
    for entry, run in study.runs():
        if (entry.initialisation, entry.method) == (start.name, config.mode.kind):
            place = places.setdefault((entry.fraction, entry.fold), [])
            place.append((run.name, entry.seed, run.predictions()["score"].to_numpy()))
    for runs in places.values():
        names, seeds, scores = zip(*runs, strict=True)
        check_distinct(names, seeds, scores)
    if any(_seeds(config, fraction) != config.seeds for fraction in config.fractions):
        note = (
            f"On all labels a {config.mode.kind.replace('_', ' ')} is exact and every seed would"
            " repeat it; it was run once, and its interval is over test patients."
        )
        _add_details(study, [note], [])
