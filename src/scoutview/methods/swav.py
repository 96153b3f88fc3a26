"""SwAV: the cluster of one view is predicted from the other views; clusters have equal size.

Source: Caron et al., 2020, arXiv:2006.09882; per modality: Ghesu et al., 2022, arXiv:2201.01283.
Deviations: views without colour and flips; small-batch defaults; prototypes frozen for epochs.
"""

import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.contract import Objective, Progress, StepOutput
from scoutview.data.batch import Batch
from scoutview.methods.cluster_counts import ENOUGH
from scoutview.methods.config import MethodConfig, longest_queue, lowered
from scoutview.methods.view_counts import check_view_numbers
from scoutview.nn.backbones import Backbone, encode_views
from scoutview.nn.clustering import BesideQueue, needs_log_domain, sinkhorn
from scoutview.nn.gather import all_gather, rank, world_size
from scoutview.nn.grouping import check_equal_parts, equal_parts
from scoutview.nn.heads import mlp
from scoutview.nn.losses.swapped import prototype_scores, swapped_prediction
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig
from scoutview.nn.precision import unit
from scoutview.nn.queues import Queue
from scoutview.views.policy import Augment, Intensity, MultiCrop

_AUGMENT = Augment(intensity=Intensity(brightness=0.8, contrast=0.8, blur_probability=0.5))


class SwAVConfig(MethodConfig):
    """Defaults are the paper's for batches of 256."""

    views: MultiCrop = MultiCrop(augment=(_AUGMENT,))
    """A few large crops and many small ones."""
    hidden_dim: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layer."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the projections and prototypes."""
    prototypes: int = Field(default=3000, ge=1)
    """Number of clusters, K; training needs at least 2."""
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature of the prediction."""
    epsilon: float = Field(default=0.05, gt=0)
    """Entropy of the assignment."""
    sinkhorn_iterations: int = Field(default=3, ge=1)
    """Rounds of the assignment."""
    assigned_views: tuple[int, ...] = (0, 1)
    """Views whose clusters are predicted."""
    queue_length: int = Field(default=3840, ge=0)
    """Past projections per assigned view that join the assignment; 0 for none."""
    queue_from_epoch: int = Field(default=15, ge=0)
    """First epoch, counted from 0, in which the queue is filled."""
    frozen_epochs: float = Field(default=1.0, ge=0)
    """Epochs at the start in which the prototypes do not change."""
    loss_reduction: Literal["sum", "mean"] = "sum"
    """The "sum" over the pairs of views (paper), or their "mean" (facebookresearch/swav)."""
    per_modality: bool = False
    """Own prototypes, assignments and queue for every modality, equal parts of which stand in each
    batch; numbers of prototypes and rows are those of one modality."""
    modality_reduction: Literal["mean", "sum"] = "mean"
    """How the losses of the modalities are joined: "mean" is the mean over all images (Ghesu et
    al., eq. 2), "sum" follows their eq. 4."""
    optimizer: OptimizerConfig = LARSConfig(lr=0.6, weight_decay=1e-6, adapt_excluded=True)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule(final=0.001)
    """Learning-rate schedule."""

    @property
    def equal_modalities(self) -> bool:
        """Whether each batch must hold equal parts of all modalities."""
        return self.per_modality

    def preflight(self, dataset_size: int, batch_size: int) -> tuple["SwAVConfig", list[str]]:
        """Keep queue and prototypes within the data."""
        why = f"there are {dataset_size} training images"
        return self._fitted(dataset_size, batch_size, why, "images")

    def preflight_modalities(
        self, sizes: Mapping[str, int], batch_size: int
    ) -> tuple["SwAVConfig", list[str]]:
        """Keep queue and prototypes of each modality within the smallest one."""
        if not self.per_modality:
            return self.preflight(sum(sizes.values()), batch_size)
        name, part = min(sizes, key=sizes.__getitem__), batch_size // len(sizes)
        if sizes[name] < part:
            raise ConfigError(
                f"batch_size must be at most {sizes[name] * len(sizes)} with per_modality, because"
                f" a batch holds equal parts of {len(sizes)} modalities and {name} has"
                f" {sizes[name]} training images; got {batch_size}."
            )
        images = f"{name} has {sizes[name]} training images"
        return self._fitted(sizes[name], part, images, "images of each modality")

    def first_epochs(self) -> dict[str, tuple[float, str]]:
        """Leave most of a short training to the prototypes and to the queue."""
        counted = {"frozen_epochs": (0.1, "the prototypes never change")}
        if self.queue_length:
            counted["queue_from_epoch"] = (0.15, "the queue is never filled")
        return counted

    def _fitted(self, size: int, batch: int, why: str, what: str) -> tuple["SwAVConfig", list[str]]:
        """Fit to what is clustered together: `size` images, `batch` of them at once."""
        check_view_numbers("assigned_views", self.assigned_views, self.views.n_views)
        if self.prototypes < 2:
            raise ConfigError(
                f"prototypes must be at least 2 to train, got {self.prototypes}: one cluster tells"
                " no images apart; raise it."
            )
        config, notes = self._queue_for(batch)
        config, more = lowered(config, "queue_length", longest_queue(self, size, batch), why)
        notes += more
        # by default ten images per cluster, so that a cluster can say more than an image
        most = size if "prototypes" in self.model_fields_set else max(2, size // ENOUGH)
        config, more = lowered(config, "prototypes", most, why)
        notes += more
        if most == size and config.prototypes * ENOUGH > size:
            notes.append(
                f"{config.prototypes} prototypes have {size / config.prototypes:.1f} images each;"
                f" with fewer than {ENOUGH} a cluster says little more than an image, so lower"
                " prototypes."
            )
        if config.prototypes > batch + config.queue_length:
            notes.append(
                f"{batch} {what} and a queue of {config.queue_length} cannot fill"
                f" {config.prototypes} prototypes equally; raise queue_length or batch_size, or"
                " lower prototypes."
            )
        return config, notes

    def _queue_for(self, batch_size: int) -> tuple["SwAVConfig", list[str]]:
        """Leave the default queue out where the batch alone is larger, as the paper does."""
        if self.queue_length == 0 or self.queue_length >= batch_size:
            return self, []
        if "queue_length" in self.model_fields_set:
            raise ConfigError(
                f"queue_length must be 0 or hold at least the batch of {batch_size}, got"
                f" {self.queue_length}; raise it, or set it to 0."
            )
        note = (
            f"queue_length lowered from {self.queue_length} to 0, because a batch of {batch_size}"
        )
        return self.model_copy(update={"queue_length": 0}), [note + " needs no queue."]


class SwAV(Objective):
    """See the module docstring."""

    def __init__(self, backbone: Backbone, config: SwAVConfig, *, num_groups: int = 1) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.hidden_dim, config.output_dim, batch_norm=True)
        self.modalities = num_groups if config.per_modality else 1
        start = torch.randn(self.modalities * config.prototypes, config.output_dim)
        self.prototypes = nn.Parameter(F.normalize(start, dim=1))  # (M K, output_dim)
        queues = self.modalities * len(config.assigned_views) if config.queue_length else 0
        self.queues = nn.ModuleList(  # modality by modality
            Queue(config.queue_length, config.output_dim, random=False, newest_first=True)
            for _ in range(queues)
        )
        self._beside = BesideQueue(epsilon=config.epsilon, iterations=config.sinkhorn_iterations)
        self.config = config
        self._new_rows: list[tuple[int, Tensor]] = []
        self._parts_checked = False
        self._held: Tensor | None = None

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Predict the clusters of the assigned views from all other views."""
        features = encode_views(self.backbone, batch.views)  # (V B, dim)
        embeddings = unit(self.projector(features))  # (V B, output_dim)
        embeddings = embeddings.view(len(batch.views), len(batch), -1)
        if self.modalities > 1 and not self._parts_checked:
            check_equal_parts(batch.groups, self.modalities)
            self._parts_checked = True
        parts = equal_parts(embeddings, batch.groups, self.modalities)
        found = [self.swapped_loss(part, progress, m) for m, part in enumerate(parts)]
        logs = {k: torch.stack([logs[k] for _, logs in found]).mean() for k in found[0][1]}
        loss = torch.stack([loss for loss, _ in found]).mean()
        if self.config.modality_reduction == "sum":
            loss = loss * self.modalities
            logs["chance_loss"] = logs["chance_loss"] * self.modalities
        return StepOutput(loss, logs, features[: len(batch)])

    def swapped_loss(
        self, embeddings: Tensor, progress: Progress, modality: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of unit vectors of one modality, (V, B, output_dim), and what to log."""
        config = self.config
        views, n, _ = embeddings.shape
        scores = prototype_scores(embeddings.flatten(0, 1), self._prototypes(progress, modality))
        scores = scores.view(views, n, -1)  # (V, B, K)
        assigned = torch.stack(  # (A, B, K)
            [self._assign(i, scores[v], modality) for i, v in enumerate(config.assigned_views)]
        )
        loss = swapped_prediction(
            scores,
            assigned,
            config.assigned_views,
            temperature=config.temperature,
            reduction=config.loss_reduction,
        )
        if self.queues and progress.epoch >= config.queue_from_epoch:
            chosen = embeddings.detach()[list(config.assigned_views)]  # (A, B, output_dim)
            rows = all_gather(chosen.transpose(0, 1))  # (world B, A, output_dim)
            self._new_rows.append((modality, rows))
        pairs = len(config.assigned_views) * (views - 1) if config.loss_reduction == "sum" else 1
        entropy = -(assigned * (assigned + 1e-12).log()).sum(dim=2).mean()
        chance = torch.full_like(loss.detach(), pairs * math.log(config.prototypes))
        return loss, {"chance_loss": chance, "assignment_entropy": entropy}

    def _prototypes(self, progress: Progress, modality: int) -> Tensor:
        own = self.prototypes.chunk(self.modalities)[modality]  # (K, output_dim)
        if progress.within(self.config.frozen_epochs):
            # A gradient of zero, as data-parallel training waits for one; decay still moves them.
            self._held = self.prototypes.detach().clone()
            return own.detach() + 0.0 * own
        return own

    @torch.no_grad()
    def _assign(self, number: int, scores: Tensor, modality: int = 0) -> Tensor:
        """Cluster the rows of one view, scores (B, K), together with its queue, if that is full."""
        config = self.config
        first = modality * len(config.assigned_views)
        queue = self.queues[first + number] if self.queues else None
        if isinstance(queue, Queue) and queue.is_full:
            past = queue.rows.tensor_split(world_size())[rank()]  # each process takes its share
            own = self.prototypes.chunk(self.modalities)[modality]
            return self._beside.assign(past, own, scores)
        return sinkhorn(
            scores,
            epsilon=config.epsilon,
            iterations=config.sinkhorn_iterations,
            log_domain=needs_log_domain(config.epsilon),
        )

    @torch.no_grad()
    def after_update(self, progress: Progress) -> None:
        """Store the projections of the step and bring the prototypes back to unit length."""
        for modality, rows in self._new_rows:  # one entry per modality and accumulated part
            for number, column in enumerate(rows.unbind(dim=1)):
                cast(Queue, self.queues[modality * rows.shape[1] + number]).write(column)
        self._new_rows.clear()
        kept = self.prototypes if self._held is None else self._held
        self.prototypes.copy_(F.normalize(kept, dim=1))
        self._held = None
