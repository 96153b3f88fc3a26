"""What `pretrain` decides before anything is trained or written."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scoutview.api.pretrain_config import PretrainConfig
from scoutview.api.pretrain_parts import check_equal_parts, check_labels, modality_sizes
from scoutview.api.pretrain_views import settled_views
from scoutview.api.store import stored
from scoutview.base.errors import ConfigError
from scoutview.base.randomness import SUBSETS, generator
from scoutview.data.batch import IGNORE
from scoutview.data.samples import Samples
from scoutview.index.cohort import Cohort
from scoutview.methods import method_class
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import network_kind
from scoutview.nn.optim_config import ScheduleConfig
from scoutview.store.reader import Store
from scoutview.tasks.targets import Targets, read_targets
from scoutview.train.preflight import check_budget, fit_batch, fit_warmup
from scoutview.views.policy import EvalView

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Plan:
    """A pre-training with everything decided."""

    method: str
    settings: MethodConfig
    config: PretrainConfig
    cohort: Cohort
    store: Store
    samples: Samples
    targets: Targets | None
    notes: tuple[str, ...]

    @property
    def train_images(self) -> str:
        """Changes with any image of the training set and with their order."""
        keys = self.store.table.mapped["image_key"][self.samples.rows]
        return hashlib.sha256(np.ascontiguousarray(keys).data).hexdigest()[:32]

    def values(self, out: Path) -> dict[str, Any]:
        """Everything that decides what the run computes, for config.json."""
        settings = self.settings.model_dump(mode="json")
        return {
            "verb": "pretrain",
            "cohort": os.path.relpath(self.cohort.folder.resolve(), out.resolve()),
            "method": {"name": self.method, **settings},
            **self.config.model_dump(mode="json"),
            "train_images": self.train_images,
            "intensity_used": self.samples.written_policies(),
            "notes": list(self.notes),
        }


def make_plan(
    cohort: Cohort, method: str, settings: MethodConfig, config: PretrainConfig, fabric: "Fabric"
) -> Plan:
    """Decide all that was left open, and say what was decided."""
    notes: list[str] = []
    if config.data.split is None and (cohort.table["split"] == "train").any():
        data = config.data.model_copy(update={"split": "train"})
        config = config.model_copy(update={"data": data})
        notes.append("Only the training part of the cohort is used (data.split = train).")
    settings = settings.for_network(network_kind(config.backbone))
    own = "schedule" in config.model_fields_set
    for field in ("optimizer", "schedule"):
        usual = getattr(settings, field)
        written = field in config.model_fields_set
        chosen = getattr(config, field).over(usual) if written else usual
        config = config.model_copy(update={field: chosen})
    plan = lay_out(cohort, method, settings, config, fabric, ())
    size = len(plan.samples)
    config, more = fit_batch(config, size)
    notes += more
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
    schedule, more = _warmed(config, config if own else settings, size)
    notes += more
    config = config.model_copy(update={"schedule": schedule})
    if not own:
        settings = settings.with_defaults(schedule=schedule)
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
    return Plan(
        method,
        settings,
        config,
        plan.cohort,
        plan.store,
        plan.samples,
        plan.targets,
        tuple(notes),
    )


def _warmed(
    config: PretrainConfig, owner: PretrainConfig | MethodConfig, size: int
) -> tuple[ScheduleConfig, list[str]]:
    """Fit the warm-up to the budget; `owner` says whether it was written."""
    named = owner.schedule.model_fields_set if "schedule" in owner.model_fields_set else set()
    return fit_warmup(
        config.schedule,
        total_steps=config.total_steps(size),
        steps_per_epoch=config.steps_per_epoch(size),
        written="warmup_epochs" in named,
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


def _checked_labels(config: PretrainConfig, method: str, plan: Plan) -> list[str]:
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


def lay_out(
    cohort: Cohort,
    method: str,
    settings: MethodConfig,
    config: PretrainConfig,
    fabric: "Fabric",
    notes: tuple[str, ...],
) -> Plan:
    """Open the store, which the first process builds if it is missing, and lay out the samples."""
    part = cohort.where(config.data.where)
    if fabric.is_global_zero:
        store = stored(part)
    fabric.barrier()
    if not fabric.is_global_zero:
        store = stored(part)
    targets = _targets(cohort, config)
    samples = lay_out_samples(cohort, store, config, config.data.split, targets)
    return Plan(method, settings, config, cohort, store, samples, targets, notes)


def _targets(cohort: Cohort, config: PretrainConfig) -> Targets | None:
    """Read the targets of the whole cohort; None without labels, or if they cannot be mixed."""
    kinds = {label.kind for label in cohort.labels}
    several = len(cohort.labels) > 1 and "multiclass" in kinds
    if not cohort.labels or (several and not config.labels):
        return None
    return read_targets(cohort.table, cohort.labels, config.labels, uncertain=config.uncertain)


def lay_out_samples(
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
