"""`transfer`: cohort, task and initialisation in; a study of one run per label subset out."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scoutview.api.embed import embed
from scoutview.api.index import open_cohort
from scoutview.api.store import stored
from scoutview.api.transfer_checks import told_classes, told_shares
from scoutview.api.transfer_config import TransferConfig, as_pretrained
from scoutview.api.transfer_images import divide, seen_in_pretraining, select_images
from scoutview.api.transfer_runs import (
    Cell,
    FineTune,
    Images,
    Result,
    Start,
    features_of,
    fit_classifier,
    fit_network,
    fitted_config,
    pixels_of,
    predictions,
    remove_checkpoints,
)
from scoutview.api.transfer_starts import read_start, read_starts
from scoutview.base.errors import ConfigError, RunError, unknown
from scoutview.base.lock import alone
from scoutview.base.progress import bar
from scoutview.data.samples import Samples
from scoutview.index.cohort import Cohort
from scoutview.results.provenance import environment
from scoutview.results.run import RunFolder
from scoutview.results.study import Initialisation, Study
from scoutview.stats.comparison import check_distinct
from scoutview.store.duplicates import known_duplicates
from scoutview.tasks import TASKS
from scoutview.tasks.evaluation import Rows
from scoutview.tasks.probe import LinearProbe, LogisticRegression
from scoutview.tasks.subsets import label_subset

__all__ = ["TransferConfig", "resume_transfer", "transfer"]

log = logging.getLogger(__name__)


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
    for text in dict.fromkeys(text for arm in arms for text in arm.warnings):
        log.warning("%s", text)
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
    with alone(study.path, "transfer"):
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
    cells: list[Cell]
    notes: list[str]
    warnings: list[str]
    dropped: list[dict[str, Any]]


def _prepare(start: Start, whole: Cohort, config: TransferConfig) -> _Arm:
    """Select an initialisation's images and divide them."""
    config, seen_otherwise = as_pretrained(start, config)
    part = whole.where(config.data.where)
    store = stored(part)
    images = select_images(part, store, config)
    pairs = known_duplicates(store, part)
    blocks, notes, dropped = divide(images, pairs, config)
    notes += seen_otherwise
    notes += seen_in_pretraining(start, part, images, blocks, config)
    cells = list(_cells(images, blocks, config))
    if isinstance(config.mode, FineTune):
        for cell in cells:  # what cannot be trained is said before anything is
            fitted_config(config.mode, len(cell.train), cell.seed)
    shares = told_shares(images, blocks, cells)
    warnings = [*shares, *told_classes(images, blocks)]
    return _Arm(start, config, images, cells, [*notes, *shares], warnings, dropped)


def _train(study: Study, arm: _Arm) -> None:
    """Fill the grid of an initialisation."""
    name = arm.start.name
    _add_details(study, arm.notes, arm.dropped)
    with bar(f"transfer {name}", total=len(arm.cells)) as shown:
        for position, cell in enumerate(arm.cells):
            log.info("%s: run %d of %d", name, position + 1, len(arm.cells))
            _run(study, arm.start, arm.images, cell, arm.config)
            shown.advance()
    _check_repetitions(study, arm.start, arm.config)


def _embed(study: Study, arm: _Arm, whole: Cohort) -> None:
    """Compute what the page's map and neighbours show: pre-trained features of labelled images."""
    run, place = arm.start.run, study.embeddings_folder(arm.start.name)
    if run is not None and not (place / "embeddings.parquet").is_file():
        embed(whole.select(arm.images.table["image_id"]), run, place, resume=place.exists())


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
    places = {(cell.fraction, cell.seed, cell.fold): cell for cell in arm.cells}
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
