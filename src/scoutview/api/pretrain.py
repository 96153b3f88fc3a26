"""`pretrain`: a cohort and a method in; a run with a backbone, metrics and probes out."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors.torch import save as save_tensors
from torch import Tensor

from scoutview.api.index import open_cohort
from scoutview.api.pretrain_parts import check_equal_parts, check_labels, modality_sizes
from scoutview.api.pretrain_views import ViewPreset, settled_views
from scoutview.api.store import stored
from scoutview.base.errors import ConfigError, RunError
from scoutview.base.files import atomic_writer
from scoutview.base.randomness import SUBSETS, generator
from scoutview.contract import LabelSpec, Objective
from scoutview.data.batch import IGNORE, Batch
from scoutview.data.loader import Loader, widen
from scoutview.data.sampler import GroupSampler, PermutationSampler, Sampler
from scoutview.data.samples import DataConfig, Samples
from scoutview.index.cohort import Cohort
from scoutview.index.labels import Policy
from scoutview.methods import build, config_class, method_class
from scoutview.methods.config import MethodConfig
from scoutview.methods.hybrid import Hybrid, HybridConfig
from scoutview.nn.backbones import BackboneConfig, build_backbone, network_kind
from scoutview.results.provenance import environment, usable_cores
from scoutview.results.run import RunFolder
from scoutview.store.reader import Store
from scoutview.tasks.targets import Targets, read_targets
from scoutview.train.config import FitConfig
from scoutview.train.devices import start_fabric
from scoutview.train.loop import Fitted, fit
from scoutview.train.monitor import CollapseMonitor, queue_size
from scoutview.train.preflight import Estimate, check_budget, estimate
from scoutview.train.probe import LabelledProbe
from scoutview.views.device import make_views
from scoutview.views.pipeline import Views
from scoutview.views.policy import EnergyBands, EvalView

if TYPE_CHECKING:
    from lightning_fabric import Fabric

logger = logging.getLogger(__name__)


class PretrainConfig(FitConfig):
    """One pre-training. Optimiser and schedule are the method's own unless written here."""

    epochs: int | None = Field(default=100, ge=1)
    """Budget in passes over the training set, unless `samples` is set."""
    backbone: BackboneConfig = BackboneConfig()
    """What is trained."""
    data: DataConfig = DataConfig()
    """Which images, slices and grey values; without a split, the training part if there is one."""
    balance_modalities: bool = False
    """Give every modality an equal part of each batch; on where the method asks for it."""
    hybrid: HybridConfig | None = None
    """Also learn from the labels, where there are some; null learns from images alone."""
    view_preset: ViewPreset = "method"
    """Views of the "method", or its numbers and sizes with the "medical" changes: rescale, energy
    bands, gamma, linear values (Ghesu et al., 2022)."""
    energy_bands: EnergyBands | None = None
    """Change how strong details of every size are, in all random views; reference energies are
    measured on the training images before training and stored with the method's views."""
    view: EvalView | None = None
    """Evaluation view of probes and of the exported model; null is the size of the largest view."""
    mean: float = 0.5
    """Subtracted from grey values in [0, 1]."""
    std: float = Field(default=0.5, gt=0)
    """Grey values are divided by this afterwards."""
    views_on: Literal["cpu", "device"] = "cpu"
    """Where random views are made: by the threads of the loader, or on the device, to which images
    then travel once and whole. The same views, but for the roundings of the CPU."""
    workers: int | None = Field(default=None, ge=0)
    """Threads that make views; null is 1 on the CPU, and the cores per process (8 at most) for
    GPUs."""
    labels: tuple[str, ...] = ()
    """Labels of the probes and of supervised pre-training; empty takes all of the cohort."""
    uncertain: Policy = "ones"
    """What an uncertain label counts as."""
    probe_every: int | None = Field(default=10, ge=1)
    """Epochs between kNN and linear probes, if there are labels; null never probes."""
    probe_images: int = Field(default=2000, ge=10)
    """Most labelled images that a probe learns from, and most that it is scored on."""

    @model_validator(mode="before")
    @classmethod
    def _samples_replace_epochs(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("samples") is not None:
            return {"epochs": None, **values}
        return values


@dataclass(frozen=True)
class _Plan:
    """A pre-training with everything decided."""

    method: str
    settings: MethodConfig
    config: PretrainConfig
    cohort: Cohort
    store: Store
    samples: Samples
    targets: Targets | None
    notes: tuple[str, ...]

    def values(self, out: Path) -> dict[str, Any]:
        """Everything that decides what the run computes, for config.json."""
        settings = self.settings.model_dump(mode="json")
        return {
            "verb": "pretrain",
            "cohort": os.path.relpath(self.cohort.folder.resolve(), out.resolve()),
            "method": {"name": self.method, **settings},
            **self.config.model_dump(mode="json"),
            "intensity_used": self.samples.written_policies(),
            "notes": list(self.notes),
        }


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
    plan = _plan(open_cohort(cohort), method, settings, config, fabric)
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
    plan = _laid_out(whole, name, settings, config, fabric, tuple(values["notes"]))
    objective, loader = _objective(plan), _loader(plan, fabric)
    cost = _cost(plan, objective, loader, fabric)
    return _train(plan, objective, loader, run, fabric, cost, resume=True)


# ------------------------------------------------------------------ decisions


def _plan(
    cohort: Cohort, method: str, settings: MethodConfig, config: PretrainConfig, fabric: "Fabric"
) -> _Plan:
    """Decide all that was left open, and say what was decided."""
    notes: list[str] = []
    if config.data.split is None and (cohort.table["split"] == "train").any():
        data = config.data.model_copy(update={"split": "train"})
        config = config.model_copy(update={"data": data})
        notes.append("Only the training part of the cohort is used (data.split = train).")
    settings = settings.for_network(network_kind(config.backbone))
    for field in ("optimizer", "schedule"):
        if field not in config.model_fields_set:
            config = config.model_copy(update={field: getattr(settings, field)})
    plan = _laid_out(cohort, method, settings, config, fabric, ())
    size = len(plan.samples)
    settings, more = settled_views(
        settings,
        plan.samples,
        plan.store,
        preset=config.view_preset,
        energy_bands=config.energy_bands,
        views_on=config.views_on,
        seed=config.seed,
    )
    notes += more
    notes += check_budget(config, size)
    epochs = config.total_steps(size) / config.steps_per_epoch(size)
    settings, more = settings.preflight_budget(epochs)
    notes += more
    sizes = modality_sizes(plan.samples, plan.store)
    config, more = _balanced(config, settings, sizes)
    notes += more
    together = config.part_size * config.world  # what meets in a loss or a norm
    settings, more = settings.preflight_modalities(sizes, together)
    notes += more + _checked_labels(config, method, plan)
    if config.view is None:
        largest = max(spec.size for spec in settings.views.specs(2))  # type: ignore[attr-defined]
        side = largest[0] if len(set(largest)) == 1 else largest
        config = config.model_copy(update={"view": EvalView(size=side)})
    return _Plan(
        method,
        settings,
        config,
        plan.cohort,
        plan.store,
        plan.samples,
        plan.targets,
        tuple(notes),
    )


def _balanced(
    config: PretrainConfig, settings: MethodConfig, sizes: dict[str, int]
) -> tuple[PretrainConfig, list[str]]:
    """Switch balancing on where the method needs it, and check that it works."""
    notes = []
    if settings.equal_modalities and not config.balance_modalities:
        if "balance_modalities" in config.model_fields_set:
            raise ConfigError(
                "This method needs equal parts of all modalities in a batch; leave"
                " balance_modalities out or set it to true, or set per_modality to false."
            )
        config = config.model_copy(update={"balance_modalities": True})
        notes.append("balance_modalities is switched on, because the method needs equal parts.")
    if config.balance_modalities:
        notes += check_equal_parts(sizes, config.batch_size, config.world * config.accumulate)
    return config, notes


def _checked_labels(config: PretrainConfig, method: str, plan: _Plan) -> list[str]:
    if config.hybrid is None:
        if method_class(method).self_supervised:
            return []
        check_labels(plan.samples, plan.store, plan.targets, method)
        return []
    if config.hybrid.level is not None and config.compile:
        raise ConfigError(
            "hybrid.level reads inside the network, which a compiled one does not allow; set"
            " compile to false, or leave hybrid.level out."
        )
    return check_labels(plan.samples, plan.store, plan.targets, "Hybrid training")


def _laid_out(
    cohort: Cohort,
    method: str,
    settings: MethodConfig,
    config: PretrainConfig,
    fabric: "Fabric",
    notes: tuple[str, ...],
) -> _Plan:
    """Open the store, which the first process builds if it is missing, and lay out the samples."""
    part = cohort.where(config.data.where)
    if fabric.is_global_zero:
        store = stored(part)
    fabric.barrier()
    if not fabric.is_global_zero:
        store = stored(part)
    targets = _targets(cohort, config)
    samples = _samples(cohort, store, config, config.data.split, targets)
    return _Plan(method, settings, config, cohort, store, samples, targets, notes)


def _targets(cohort: Cohort, config: PretrainConfig) -> Targets | None:
    """Read the targets of the whole cohort; None without labels, or if they cannot be mixed."""
    kinds = {label.kind for label in cohort.labels}
    several = len(cohort.labels) > 1 and "multiclass" in kinds
    if not cohort.labels or (several and not config.labels):
        return None
    return read_targets(cohort.table, cohort.labels, config.labels, uncertain=config.uncertain)


def _samples(
    cohort: Cohort,
    store: Store,
    config: PretrainConfig,
    split: str | None,
    targets: Targets | None,
    limit: int | None = None,
) -> Samples:
    """Lay out one part of the cohort, or at most `limit` of its labelled images."""
    part = cohort.where(config.data.where)
    part = part.split(split) if split else part
    chosen = part.table["image_id"]
    numbers = None
    if targets is not None:
        position = cohort.table["image_id"].reset_index().set_index("image_id")["index"]
        found = targets.of(position[chosen].to_numpy())
        keep: NDArray[np.int64] = np.arange(len(chosen))
        if limit is not None:
            keep = np.flatnonzero(found.known)
            order = generator(config.seed, SUBSETS).permutation(len(keep))
            keep = np.sort(keep[order[:limit]])
        numbers, chosen = found.of(keep).for_loss(IGNORE), chosen.iloc[keep]
    rows = store.row_of(chosen)
    there = store.present()[rows]
    return Samples(
        store, rows[there], config.data, targets=None if numbers is None else numbers[there]
    )


# ------------------------------------------------------------------ training


def _train(
    plan: _Plan,
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
    with _log_file(run, fabric):
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
            _write_results(plan, objective, run, fitted)
    fabric.barrier()
    return run.path


def _prepare(plan: _Plan, fabric: "Fabric") -> Callable[[Batch], Batch]:
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


def _cost(plan: _Plan, objective: Objective, loader: Loader, fabric: "Fabric") -> Estimate:
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


def _objective(plan: _Plan) -> Objective:
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


def _group_numbers(plan: _Plan) -> Tensor:
    """Number the modalities of the training set from 0; by their number in the store."""
    numbers = torch.zeros(len(plan.store.groups), dtype=torch.int64)
    there = torch.from_numpy(np.unique(plan.samples.groups()))
    numbers[there] = torch.arange(len(there))
    return numbers


def _spec(plan: _Plan) -> LabelSpec | None:
    return None if plan.targets is None else plan.targets.spec


def _loader(plan: _Plan, fabric: "Fabric") -> Loader:
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


def _probes(
    plan: _Plan, prepare: Callable[[Batch], Batch], fabric: "Fabric"
) -> list[LabelledProbe]:
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
        samples = _samples(
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


def _is_labelled(plan: _Plan, split: str) -> bool:
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


# ------------------------------------------------------------------ results


def _write_results(plan: _Plan, objective: Objective, run: RunFolder, fitted: Fitted) -> None:
    config = plan.config
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in objective.backbone.model.state_dict().items()
    }
    metadata = {
        "method": plan.method,
        "backbone": config.backbone.model_copy(update={"weights": None}).model_dump_json(),
        "in_channels": str(config.backbone.in_channels),
        "mean": str(config.mean),
        "std": str(config.std),
        "data": config.data.model_dump_json(),
        "view": config.view.model_dump_json() if config.view else "",
    }
    with atomic_writer(run.backbone) as stream:
        stream.write(save_tensors(weights, metadata=metadata))
    head = objective.kept_head()
    if head is not None:
        layers = {name: v.detach().cpu().contiguous() for name, v in head.state_dict().items()}
        with atomic_writer(run.kept_head) as stream:
            stream.write(save_tensors(layers))
    last = run.metrics().iloc[-1].dropna()
    notes = [*plan.notes, *(f"Alarm while training: {name}." for name in fitted.alarms)]
    run.write_model_card(_model_card(plan, fitted, notes))
    run.finish(
        {
            "epoch_choice": "last",
            "chosen_epoch": fitted.samples_seen / len(plan.samples),
            "steps": fitted.steps,
            "samples_seen": fitted.samples_seen,
            "time_s": fitted.time_s,
            "alarms": list(fitted.alarms),
            "last": json.loads(last.to_json()),
            "notes": notes,
        }
    )


def _model_card(plan: _Plan, fitted: Fitted, notes: list[str]) -> str:
    config = plan.config
    table = plan.cohort.table
    modalities = ", ".join(sorted(set(table["modality"])))
    policies = plan.samples.policies().items()
    intensity = "; ".join(f"{kind} `{policy.model_dump_json()}`" for kind, policy in policies)
    lines = [
        f"# {config.backbone.name}, pre-trained with {plan.method}",
        "",
        f"- Data: {len(plan.samples)} images, {modalities}.",
        *_label_line(plan),
        f"- Training: {fitted.samples_seen} samples seen in {fitted.steps} steps of"
        f" {config.batch_size}, seed {config.seed}, {config.precision}.",
        f"- Input: {config.backbone.in_channels} channel(s); intensity of {intensity}; then"
        f" (x - {config.mean:g}) / {config.std:g}.",
        f"- Weights: `backbone.safetensors`, tensor names of timm's {config.backbone.name}.",
        "- Last epoch; nothing was chosen on validation data.",
        "- Not a medical device. Check it on your own data before any use.",
        "",
        *(["## Notes", "", *(f"- {note}" for note in notes), ""] if notes else []),
    ]
    return "\n".join(lines)


def _label_line(plan: _Plan) -> list[str]:
    """Say from which labels the backbone has learnt, if from any."""
    hybrid = plan.config.hybrid
    if plan.targets is None or (hybrid is None and method_class(plan.method).self_supervised):
        return []
    names = ", ".join(plan.targets.columns)
    if hybrid is None:
        return [f"- Labels: {names}."]
    return [f"- Labels: {names}, beside the images (alpha {hybrid.alpha:g}, beta {hybrid.beta:g})."]


__all__ = ["PretrainConfig", "pretrain", "written_settings"]
