"""`pretrain`: a cohort and a method in; a run with a backbone, metrics and probes out."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scoutview.api.index import open_cohort
from scoutview.api.pretrain_config import PretrainConfig
from scoutview.api.pretrain_parts import modality_sizes
from scoutview.api.pretrain_plan import Plan, lay_out, lay_out_samples, make_plan
from scoutview.api.pretrain_results import write_results
from scoutview.base.errors import ConfigError, RunError
from scoutview.base.lock import alone
from scoutview.contract import LabelSpec, Objective
from scoutview.data.batch import Batch
from scoutview.data.loader import Loader, widen
from scoutview.data.sampler import GroupSampler, PermutationSampler, Sampler
from scoutview.index.cohort import Cohort
from scoutview.methods import build, config_class
from scoutview.methods.config import MethodConfig
from scoutview.methods.hybrid import Hybrid
from scoutview.nn.backbones import build_backbone
from scoutview.results.provenance import environment, usable_cores
from scoutview.results.run import RunFolder
from scoutview.train.devices import start_fabric
from scoutview.train.loop import fit
from scoutview.train.monitor import CollapseMonitor, queue_size
from scoutview.train.preflight import Estimate, estimate
from scoutview.train.probe import LabelledProbe
from scoutview.views.device import make_views
from scoutview.views.pipeline import Views

if TYPE_CHECKING:
    from lightning_fabric import Fabric

logger = logging.getLogger(__name__)


def pretrain(
    cohort: str | Path | Cohort | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    *,
    config: PretrainConfig | None = None,
    settings: MethodConfig | None = None,
    resume: str | Path | None = None,
) -> Path:
    """Train a backbone on images, most methods without labels.

    Under torchrun or SLURM, or with `config.devices` above 1, every process calls this; only the
    first one writes.

    Args:
        cohort: The cohort or its folder; a missing store is built first. With `resume`, only
            needed if the cohort has moved.
        method: A name of `scoutview.methods.METHODS`.
        out: The folder of the new run.
        config: Backbone, data, budget, devices.
        settings: The method's own configuration; its defaults are the paper's, and those that do
            not fit the data are lowered with a message.
        resume: A run that was stopped or killed; it goes on from its newest checkpoint.

    Returns:
        The folder of the run.

    Raises:
        ConfigError: A setting cannot work with this data.
        RunError: `out` has content, or the run to resume is missing or finished.
        TrainingStoppedError: SIGTERM or SIGINT came; the run can be resumed.
    """
    if resume is not None:
        if method is not None or out is not None or config is not None or settings is not None:
            raise ConfigError("resume takes everything from the run; give only the cohort with it.")
        return _go_on(Path(resume), cohort)
    if cohort is None or method is None or out is None:
        raise ConfigError("pretrain needs a cohort, a method and a folder for the run, or resume.")
    config = config or PretrainConfig()
    settings = settings or config_class(method)()
    fabric = start_fabric(config)
    plan = make_plan(open_cohort(cohort), method, settings, config, fabric)
    objective, loader = _objective(plan), _loader(plan, fabric)
    cost = _cost(plan, objective, loader, fabric)  # a step that fails leaves no folder behind
    folder = Path(out)
    written = {"config": config.written(), "method": settings.written()}
    if fabric.is_global_zero:
        RunFolder.create(folder, plan.values(folder) | {"written": written}, environment())
    fabric.barrier()
    run = RunFolder.open(folder)
    return _train(plan, objective, loader, run, fabric, cost, resume=False)


def written_settings(run: str | Path) -> tuple[PretrainConfig, MethodConfig]:
    """Read what the user of a run wrote, for another run alike: its defaults are still defaults.

    Args:
        run: Folder of a pre-training.

    Returns:
        What `pretrain` was given as `config` and `settings`.

    Raises:
        RunError: There is no pre-training, or it comes from a scoutview that did not record this.
    """
    values = RunFolder.open(run).config
    if values.get("verb") != "pretrain" or "written" not in values:
        raise RunError(
            f"{run} does not say what its user wrote (no pre-training, or an old one); take the"
            " settings that matter from its config.json."
        )
    written = values["written"]
    settings = config_class(str(values["method"]["name"])).build(written["method"])
    return PretrainConfig.build(written["config"]), settings


def _go_on(folder: Path, cohort: str | Path | Cohort | None) -> Path:
    run = RunFolder.open(folder)
    values = run.config
    if values.get("verb") != "pretrain":
        raise RunError(f"{folder} is no pre-training run; resume it with the verb that made it.")
    if run.finished:
        raise RunError(f"{folder}: the run has finished; nothing is left to resume.")
    chosen = dict(values["method"])
    name = str(chosen.pop("name"))
    settings = config_class(name).build(chosen)
    config = PretrainConfig.build(
        {k: values[k] for k in PretrainConfig.model_fields if k in values}
    )
    fabric = start_fabric(config)
    whole = open_cohort(cohort if cohort is not None else (folder / values["cohort"]).resolve())
    plan = lay_out(whole, name, settings, config, fabric, tuple(values["notes"]))
    if plan.train_images != values.get("train_images", plan.train_images):
        raise RunError(
            f"{folder} was begun on other images than the {len(plan.samples)} that the cohort gives"
            " now; resume it with the cohort as it was, or start a new run."
        )
    objective, loader = _objective(plan), _loader(plan, fabric)
    cost = _cost(plan, objective, loader, fabric)
    return _train(plan, objective, loader, run, fabric, cost, resume=True)


# ------------------------------------------------------------------ training


def _train(
    plan: Plan,
    objective: Objective,
    loader: Loader,
    run: RunFolder,
    fabric: "Fabric",
    cost: Estimate,
    *,
    resume: bool,
) -> Path:
    config, size = plan.config, len(plan.samples)
    prepare = _prepare(plan, fabric)
    monitor = CollapseMonitor(
        batch_size=config.part_size * fabric.world_size,
        dataset_size=size,
        queue_size=queue_size(objective),
    )
    with _alone(run, fabric), _log_file(run, fabric):
        if fabric.is_global_zero:
            for note in () if resume else plan.notes:
                logger.warning("%s", note)
            logger.info("%s on %d images, %s.", plan.method, size, _budget(config, size))
            logger.info("%s", cost)
        fitted = fit(
            objective,
            loader,
            config,
            run,
            fabric=fabric,
            dataset_size=size,
            prepare=prepare,
            monitor=monitor if objective.self_supervised else None,
            probes=_probes(plan, prepare, fabric),
            resume=resume,
        )
        if fabric.is_global_zero:
            write_results(plan, objective, run, fitted)
    fabric.barrier()
    return run.path


def _alone(run: RunFolder, fabric: "Fabric") -> AbstractContextManager[None]:
    return alone(run.path, "training") if fabric.is_global_zero else nullcontext()


def _prepare(plan: Plan, fabric: "Fabric") -> Callable[[Batch], Batch]:
    """Give what turns a batch of the loader into one that the objective takes."""
    config = plan.config
    dtype = torch.float64 if config.precision == "64-true" else torch.float32
    numbers = _group_numbers(plan).to(fabric.device)

    def prepare(batch: Batch) -> Batch:
        batch = make_views(batch)
        batch = widen(
            batch,
            channels=config.backbone.in_channels,
            mean=config.mean,
            std=config.std,
            dtype=dtype,
        )
        return replace(batch, groups=numbers[batch.groups])

    return prepare


def _cost(plan: Plan, objective: Objective, loader: Loader, fabric: "Fabric") -> Estimate:
    first = next(loader.batches(0))
    return estimate(
        objective,
        first,
        _prepare(plan, fabric),
        plan.config,
        fabric=fabric,
        dataset_size=len(plan.samples),
    )


def _budget(config: PretrainConfig, size: int) -> str:
    steps = config.total_steps(size)
    seen = steps * config.batch_size
    return f"{steps} steps of {config.batch_size}: {seen} samples seen, {seen / size:.1f} epochs"


def _objective(plan: Plan) -> Objective:
    torch.manual_seed(plan.config.seed)
    groups = len(modality_sizes(plan.samples, plan.store))
    objective = build(
        plan.method,
        build_backbone(plan.config.backbone),
        plan.settings,
        dataset_size=len(plan.samples),
        num_groups=groups,
        labels=_spec(plan),
    )
    if plan.config.hybrid is None:
        return objective
    return Hybrid(objective, plan.config.hybrid, labels=_spec(plan), num_groups=groups)


def _group_numbers(plan: Plan) -> Tensor:
    """Number the modalities of the training set from 0; by their number in the store."""
    numbers = torch.zeros(len(plan.store.groups), dtype=torch.int64)
    there = torch.from_numpy(np.unique(plan.samples.groups()))
    numbers[there] = torch.arange(len(there))
    return numbers


def _spec(plan: Plan) -> LabelSpec | None:
    return None if plan.targets is None else plan.targets.spec


def _loader(plan: Plan, fabric: "Fabric") -> Loader:
    config = plan.config
    seed, rank, world = config.seed, fabric.global_rank, fabric.world_size
    batch = config.part_size * world
    sampler: Sampler
    if config.balance_modalities:
        sampler = GroupSampler(plan.samples.groups(), batch, seed=seed, rank=rank, world=world)
    else:
        sampler = PermutationSampler(len(plan.samples), batch, seed=seed, rank=rank, world=world)
    assert config.view is not None
    return Loader(
        plan.samples,
        Views(plan.settings.views),  # type: ignore[attr-defined]
        sampler,
        threads=_threads(config, fabric),
        pin=fabric.device.type == "cuda",
        on_device=config.views_on == "device",
        sweep_views=Views(config.view),
        seed=seed,
        rank=rank,
        world=world,
    )


def _threads(config: PretrainConfig, fabric: "Fabric") -> int:
    if config.workers is not None:
        return config.workers
    if fabric.device.type == "cpu":
        return 1
    return max(1, min(8, usable_cores() // config.devices))


def _probes(plan: Plan, prepare: Callable[[Batch], Batch], fabric: "Fabric") -> list[LabelledProbe]:
    """Make the labelled probe, if there are labels in the training and validation parts."""
    config, targets = plan.config, plan.targets
    if config.probe_every is None:
        return []
    if targets is None or not (_is_labelled(plan, "train") and _is_labelled(plan, "val")):
        if fabric.is_global_zero:
            logger.info("No kNN and linear probes: they need labels in the parts train and val.")
        return []
    assert config.view is not None
    view = Views(config.view)

    def part(split: str) -> Callable[[], Iterator[Batch]]:
        samples = lay_out_samples(
            plan.cohort, plan.store, config, split, targets, limit=config.probe_images
        )
        sampler = PermutationSampler(len(samples), 1, seed=0)
        return Loader(samples, view, sampler, seed=0, threads=0, sweep_views=view).sweep

    return [
        LabelledProbe(
            part("train"),
            part("val"),
            targets.spec,
            prepare=prepare,
            every=config.probe_every,
            autocast=fabric.autocast,
        )
    ]


def _is_labelled(plan: Plan, split: str) -> bool:
    """Say whether an image of a part that the run may look at has a label."""
    part = plan.cohort.where(plan.config.data.where).split(split).table["image_id"]
    positions = plan.cohort.table["image_id"].isin(part).to_numpy().nonzero()[0]
    return plan.targets is not None and bool(plan.targets.of(positions).known.any())


@contextmanager
def _log_file(run: RunFolder, fabric: "Fabric") -> Iterator[None]:
    """Append what the library logs to the run's log.txt."""
    if not fabric.is_global_zero:
        yield
        return
    handler = logging.FileHandler(run.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("scoutview")
    level = root.level
    root.setLevel(min(root.getEffectiveLevel(), logging.INFO))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


__all__ = ["PretrainConfig", "pretrain", "written_settings"]
