"""`experiment`: a grid of initialisations in; pre-training runs, studies and one page out."""

import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from scoutview.api.compare import compare
from scoutview.api.index import open_cohort
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.store import stored
from scoutview.api.transfer import transfer
from scoutview.api.transfer_config import Mode, TransferConfig, like_run
from scoutview.api.transfer_starts import WORDS, split_name
from scoutview.base.config import Config
from scoutview.base.errors import ConfigError, RunError, ScoutviewError, missing_extra
from scoutview.base.files import (
    read_json,
    relative_place,
    require_empty,
    sync_folder,
    write_json,
)
from scoutview.base.processes import process_pool
from scoutview.base.progress import Bar, bar, show_bars
from scoutview.methods import config_class
from scoutview.results.run import RunFolder
from scoutview.train.signals import TrainingStoppedError

logger = logging.getLogger(__name__)

Backend = Literal["local", "ray"]
Settings = TypeVar("Settings", PretrainConfig, TransferConfig)

VERSION: Final = 2
"""Version of experiment.json; 2 added `cohort`."""


class Pretraining(Config):
    """A pre-training that the experiment does itself."""

    method: str
    """Registry name."""
    settings: SerializeAsAny[Config] | None = None
    """The method's configuration; null is its defaults."""
    config: PretrainConfig = PretrainConfig()
    """Backbone, data, budget, devices."""

    @model_validator(mode="before")
    @classmethod
    def _settings_of_the_method(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("settings"), dict):
            settings = config_class(values["method"]).build(values["settings"])
            return {**values, "settings": settings}
        return values


class Arm(Config):
    """One line of the comparison: where weights come from and what is trained on them."""

    initialisation: str | None = None
    """A run, a file of weights, "imagenet", "random" or "raw_pixels"."""
    pretraining: Pretraining | None = None
    """Or a pre-training, done first."""
    mode: Mode | None = None
    """What is trained on the labels; null takes the experiment's."""
    name: str | None = None
    """Name in tables and figures; null takes the method's or the kind's."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.initialisation is None) == (self.pretraining is None):
            raise ValueError("an arm needs either an initialisation or a pretraining")
        return self

    @property
    def label(self) -> str:
        """Name of the arm's folders."""
        start = self.pretraining.method if self.pretraining else str(self.initialisation)
        given, path = split_name(start)
        mode = f"-{self.mode.kind}" if self.mode is not None else ""
        return (self.name or (given or Path(path).name) + mode).replace(" ", "_")


class ExperimentConfig(Config):
    """A comparison: arms that share labels, splits, fractions and seeds."""

    arms: tuple[Arm, ...] = Field(min_length=1)
    """What is compared."""
    transfer: TransferConfig = TransferConfig()
    """What all arms share: labels, fractions, seeds, view; and the mode of those without one."""
    task: str = "classification"
    """The transfer task."""
    reference: str | None = None
    """The arm that others are compared with; null is the random backbone."""
    title: str = ""
    """Title of the page."""
    replicates: int = Field(default=2000, ge=100)
    """Bootstrap draws of test patients."""
    where: str | None = None
    """Only images for which this expression over the cohort's columns holds, in every pre-training
    and transfer; a `data.where` of their own narrows it."""

    @field_validator("arms")
    @classmethod
    def _distinct(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        labels = [arm.label for arm in arms]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"arms need different names, these come twice: {', '.join(twice)}")
        return arms


def experiment(
    cohort: str | Path,
    out: str | Path,
    config: ExperimentConfig,
    *,
    workers: int = 1,
    backend: Backend = "local",
    resume: bool = False,
) -> Path:
    """Pre-train, transfer and compare.

    Args:
        cohort: Folder of the cohort.
        out: Folder of the experiment: `experiment.json`, `pretraining/`, `studies/`, `results/`.
        config: The arms and what they share.
        workers: Arms at the same time (processes, or Ray tasks).
        backend: "local" processes, or a "ray" cluster (the one that `RAY_ADDRESS` names, or one
            started here); all its nodes must see the folders.
        resume: Go on in a folder that has content: what has finished is kept, what was stopped goes
            on, arms may be added.

    Returns:
        The results page.

    Raises:
        ConfigError: With `resume`, a pre-training shall now be another one than was begun.
        RunError: `out` has content and `resume` is not set; or an arm failed, which the message
            names. What the others have done is kept.
        TrainingStoppedError: SIGTERM or SIGINT came; call it again to go on.
        MissingExtraError: Ray is not installed.
    """
    folder, place = Path(out).resolve(), Path(cohort).resolve()
    config = _placed(config, functools.partial(_there, Path.cwd()))
    _begin(folder, place, config, resume=resume)
    config = _selected(config)
    stored(open_cohort(place, config.where))  # once, before the arms would all do it
    spread = _BACKENDS[backend]
    wishes = [arm for arm in config.arms if arm.pretraining is not None]
    with bar("experiment", total=len(wishes) + len(config.arms)) as shown:
        jobs = [(place, folder, config, arm) for arm in wishes]
        runs = _counted(spread(pretrain_arm, jobs, workers), shown)
        if runs:  # what is compared with a backbone has its size and sees what it saw
            shared = like_run(config.transfer, runs[0])
            config = config.model_copy(update={"transfer": shared})
        jobs = [(place, folder, config, arm) for arm in config.arms]
        studies = _counted(spread(transfer_arm, jobs, workers), shown)
    with _replaced(folder / "results") as results:
        page = compare(
            studies,
            results,
            title=config.title,
            reference=config.reference,
            count_copies_once=True,
            replicates=config.replicates,
        )
    return folder / "results" / page.name


def resume_experiment(
    out: str | Path,
    cohort: str | Path | None = None,
    *,
    workers: int = 1,
    backend: Backend = "local",
) -> Path:
    """Go on with an experiment that was stopped; its folder holds what was asked for.

    Args:
        out: Folder of the experiment.
        cohort: Folder of the cohort if it has moved.
        workers: Arms at the same time.
        backend: See `experiment`.

    Returns:
        The results page.

    Raises:
        RunError: There is no experiment, or an older scoutview began it, which needs the cohort.
    """
    content = read_json(Path(out) / "experiment.json", schema="experiment", version=VERSION)
    if cohort is None and "cohort" not in content:
        raise RunError(f"{out} does not say where its cohort is; give the cohort's folder as well.")
    place = Path(out) / content["cohort"] if cohort is None else cohort
    written = ExperimentConfig.build(content["written"])
    config = _placed(written, functools.partial(_there, Path(out).absolute()))
    return experiment(place, out, config, workers=workers, backend=backend, resume=True)


def _begin(folder: Path, cohort: Path, config: ExperimentConfig, *, resume: bool) -> None:
    """Write down what is asked for, after a look at what was asked for before."""
    if not resume:
        require_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = _placed(config, functools.partial(_seen_from, folder))
    values, path = config.model_dump(mode="json"), folder / "experiment.json"
    if path.is_file():
        before = read_json(path, schema="experiment", version=VERSION)["config"]
        _require_same_pretraining(_wishes(before), _wishes(values))
    there = relative_place(cohort, folder)
    content = {"config": values, "written": config.written(), "cohort": there}
    write_json(path, content, schema="experiment", version=VERSION)


def _there(folder: Path, path: str) -> str:
    """Make the path of what lies there absolute; a wrong one stays as it was written."""
    place = os.path.normpath(folder / path)
    return place if os.path.exists(place) else path


def _seen_from(folder: Path, path: str) -> str:
    """Turn an absolute path into one from a folder; a link keeps its name, which arms go by."""
    place = Path(path)
    return (
        str(relative_place(place.parent, folder) / Path(place.name))
        if place.is_absolute()
        else path
    )


def _placed(config: ExperimentConfig, place: Callable[[str], str]) -> ExperimentConfig:
    """Replace the paths of runs and of files of weights; known words stay."""

    def moved(word: str) -> str:
        name, path = split_name(word)
        return word if path in WORDS else f"{name}={place(path)}" if name else place(path)

    def started(part: Settings) -> Settings:
        if part.backbone.weights in (None, *WORDS):
            return part
        weights = place(part.backbone.weights)
        backbone = part.backbone.model_copy(update={"weights": weights})
        return part.model_copy(update={"backbone": backbone})

    def arm(one: Arm) -> Arm:
        if one.pretraining is None:
            return one.model_copy(update={"initialisation": moved(str(one.initialisation))})
        wish = one.pretraining.model_copy(update={"config": started(one.pretraining.config)})
        return one.model_copy(update={"pretraining": wish})

    arms = tuple(map(arm, config.arms))
    return config.model_copy(update={"arms": arms, "transfer": started(config.transfer)})


def _wishes(values: dict[str, Any]) -> dict[str, Any]:
    """Pre-trainings by the name of their arm, as plain values."""
    arms = _selected(ExperimentConfig.build(values)).arms
    plain = (arm.model_dump(mode="json")["pretraining"] for arm in arms)
    return {arm.label: wish for arm, wish in zip(arms, plain, strict=True) if wish is not None}


def _selected(config: ExperimentConfig) -> ExperimentConfig:
    """Hold every pre-training and the transfers to the images of the experiment."""
    if config.where is None:
        return config

    def narrowed(part: Settings) -> Settings:
        own = part.data.where
        both = config.where if own is None else f"({config.where}) and ({own})"
        return part.model_copy(update={"data": part.data.model_copy(update={"where": both})})

    arms = tuple(
        arm
        if arm.pretraining is None
        else arm.model_copy(
            update={
                "pretraining": arm.pretraining.model_copy(
                    update={"config": narrowed(arm.pretraining.config)}
                )
            }
        )
        for arm in config.arms
    )
    return config.model_copy(update={"arms": arms, "transfer": narrowed(config.transfer)})


def _require_same_pretraining(before: dict[str, Any], now: dict[str, Any]) -> None:
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            raise ConfigError(
                f"Arm {name!r} was begun with other pre-training settings than it has now; give it"
                " another name, or start in a new folder."
            )


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Fill a folder beside its place; it is never seen in parts, and the one before it is kept.

    A kill between the two renames leaves no folder; the next call brings the old one back.
    """
    new, before = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "before"))
    if before.exists() and not folder.exists():
        os.rename(before, folder)
    shutil.rmtree(before, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        os.rename(folder, before)
    os.rename(new, folder)
    sync_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


Job = tuple[Path, Path, ExperimentConfig, Arm]
Work = Callable[[Job], Path]


def pretrain_arm(job: Job) -> Path:
    """Pre-train, go on with a pre-training that was stopped, or keep one that has finished."""
    cohort, folder, _, arm = job
    wish, run = arm.pretraining, _run_of(folder, arm)
    assert wish is not None
    with _named(arm):
        if not (run / "config.json").is_file():
            settings: Any = wish.settings
            return pretrain(cohort, wish.method, run, config=wish.config, settings=settings)
        if RunFolder.open(run).finished:
            logger.info("%s: pre-trained already.", arm.label)
            return run
        return pretrain(cohort, resume=run)


def transfer_arm(job: Job) -> Path:
    """Transfer; finished parts are kept."""
    cohort, folder, config, arm = job
    start = arm.initialisation or str(_run_of(folder, arm))
    shared: dict[str, Any] = {"name": arm.name, "title": config.title}
    if arm.mode is not None:
        shared["mode"] = arm.mode
    settings = config.transfer.model_copy(update=shared)
    place = folder / "studies" / arm.label
    with _named(arm):
        return transfer(cohort, config.task, start, place, settings, resume=True)


@contextmanager
def _named(arm: Arm) -> Iterator[None]:
    """Put the arm's name before what went wrong in it."""
    try:
        yield
    except TrainingStoppedError:
        raise
    except ScoutviewError as error:
        raise RunError(f"Arm {arm.label!r}: {error}") from error


def _run_of(folder: Path, arm: Arm) -> Path:
    return folder / "pretraining" / arm.label


def _counted(done: Iterator[Path], shown: Bar) -> list[Path]:
    """Collect results as they come."""
    found = []
    for path in done:
        found.append(path)
        shown.advance()
    return found


def _local(work: Work, jobs: Sequence[Job], workers: int) -> Iterator[Path]:
    if workers == 1 or len(jobs) < 2:
        yield from map(work, jobs)
        return
    quiet = functools.partial(show_bars, False)  # bars of several processes would mix
    with process_pool(workers, initializer=quiet) as pool:
        yield from pool.map(work, jobs)


def _ray(work: Work, jobs: Sequence[Job], workers: int) -> Iterator[Path]:
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "cluster") from error
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=None if _joins_cluster() else workers, include_dashboard=False)
    try:
        task = ray.remote(work)
        yield from map(ray.get, [task.remote(job) for job in jobs])
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, ScoutviewError) else error from None
    finally:
        if started:
            ray.shutdown()


def _joins_cluster() -> bool:
    return bool(os.environ.get("RAY_ADDRESS"))


_BACKENDS: dict[Backend, Callable[[Work, Sequence[Job], int], Iterator[Path]]] = {
    "local": _local,
    "ray": _ray,
}
