"""Hybrid training: a self-supervised method and a label head on the same features.

Any method can be wrapped; it does not know of the labels. An image without label counts in the
self-supervised part alone.

Source: Ghesu et al., 2022, arXiv:2201.01283, section III-B, eq. 5 to 7.
Deviations: the paper names neither alpha and beta nor the head; both weights are 1, and the head is
linear and reads the final features unless told otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError, unknown
from scoutview.contract import LabelSpec, Objective, Progress, StepOutput, Sweep
from scoutview.data.batch import IGNORE, Batch
from scoutview.nn.backbones import Backbone
from scoutview.nn.heads import mlp
from scoutview.nn.losses.supervised import image_label_loss, mean_of_known


class HybridConfig(Config):
    """How labels are learnt beside a self-supervised method."""

    alpha: float = Field(default=1.0, ge=0)
    """Weight of the self-supervised loss."""
    beta: float = Field(default=1.0, ge=0)
    """Weight of the loss of the labels."""
    level: str | None = None
    """Part of the network whose pooled output the label heads read, by timm's name as "layer3";
    null is the final features."""
    hidden_dim: int | None = Field(default=None, ge=1)
    """Width of a hidden layer of the label heads; null for linear heads."""
    per_modality: bool = True
    """Give every modality its own label head."""
    mean_over: Literal["images", "labelled"] = "images"
    """The loss of the labels is a mean over all "images", so that few labels weigh little (eq. 7),
    or over the "labelled" ones (eq. 6)."""


class Hybrid(Objective):
    """See the module docstring."""

    def __init__(
        self,
        method: Objective,
        config: HybridConfig,
        *,
        labels: LabelSpec | None,
        num_groups: int = 1,
    ) -> None:
        """Put label heads beside a method.

        Args:
            method: Any method; its features are those of the first view, with their graph.
            config: Weights and heads.
            labels: What the targets mean.
            num_groups: Modality groups in the training set.

        Raises:
            ConfigError: There are no labels, or the network has no such level.
        """
        super().__init__()
        if labels is None:
            raise ConfigError(
                "Hybrid training needs labels; index the cohort with a label table, or leave hybrid"
                " out."
            )
        self.method = method
        width = method.backbone.dim
        if config.level is not None:
            if config.level not in method.backbone.levels:
                raise unknown("level of the network", config.level, method.backbone.levels)
            width = method.backbone.widths[method.backbone.levels.index(config.level)]
        hidden, layers = (config.hidden_dim, 2) if config.hidden_dim else (0, 1)
        self.label_heads = nn.ModuleList(
            mlp(width, hidden, labels.outputs, layers=layers)
            for _ in range(num_groups if config.per_modality else 1)
        )
        self.exclusive = labels.kind == "multiclass"
        self.constant_rate = tuple(f"method.{part}" for part in method.constant_rate)
        self.config = config

    @property
    def backbone(self) -> Backbone:  # type: ignore[override]
        """The method's backbone; a second reference would be stored a second time."""
        return self.method.backbone

    @property
    def projector(self) -> nn.Module | None:
        """The method's projector, which the collapse monitor measures."""
        return getattr(self.method, "projector", None)

    @property
    def predictor(self) -> nn.Module | None:
        """The method's predictor, which the collapse monitor measures."""
        return getattr(self.method, "predictor", None)

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Add the loss of the known labels to the method's own."""
        if batch.targets is None:
            raise ConfigError("Hybrid training needs a batch with targets; give the loader labels.")
        config = self.config
        with self._tapped() as tapped:
            output: StepOutput = self.method(batch, progress)
        features = self._features(output, tapped, len(batch))  # (B, width)
        each, known = image_label_loss(
            self._logits(features, batch.groups),
            batch.targets,
            ignore=IGNORE,
            exclusive=self.exclusive,
        )  # (B,) each
        label_loss = each.mean() if config.mean_over == "images" else mean_of_known(each, known)
        loss = config.alpha * output.loss + config.beta * label_loss
        logs = {
            **output.logs,
            "self_supervised_loss": output.loss.detach(),
            "label_loss": label_loss.detach(),
            "labelled": known.to(each.dtype).mean(),
        }
        if "chance_loss" in logs:  # what the whole loss would be if the method were guessing
            chance = config.alpha * logs["chance_loss"] + config.beta * logs["label_loss"]
            logs["chance_loss"] = chance
        return StepOutput(loss, logs, output.features)

    def _features(self, output: StepOutput, tapped: list[Tensor], images: int) -> Tensor:
        """Find what the label heads read in a pass of the method."""
        features = output.features
        if self.config.level is not None:
            features = self.backbone.cells(tapped[0])[:images].mean(dim=1) if tapped else None
        if features is None or not features.requires_grad:
            raise ConfigError(
                f"{type(self.method).__name__} must send the first view through its backbone and"
                " return the features with their graph for hybrid training; do not detach"
                " StepOutput.features."
            )
        return features

    @contextmanager
    def _tapped(self) -> Iterator[list[Tensor]]:
        """Collect what the level gives when the first view passes; nothing without a level."""
        kept: list[Tensor] = []
        if self.config.level is None:
            yield kept
            return

        def keep(module: nn.Module, given: Any, output: Tensor) -> None:
            if not kept and output.requires_grad:  # methods encode the first view first
                kept.append(output)

        part: nn.Module = self.backbone.model.get_submodule(self.config.level)
        handle = part.register_forward_hook(keep)
        try:
            yield kept
        finally:
            handle.remove()

    def _logits(self, features: Tensor, groups: Tensor) -> Tensor:
        """Ask every image's own head, (B, L); all heads run, so that each has a gradient."""
        logits = torch.stack([head(features) for head in self.label_heads], dim=1)  # (B, G, L)
        if len(self.label_heads) == 1:
            return logits[:, 0]
        return logits[torch.arange(len(groups), device=groups.device), groups]

    def after_update(self, progress: Progress) -> None:
        """Let the method update its teacher, queue or bank."""
        self.method.after_update(progress)

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """Let the method work over the whole training set."""
        self.method.between_epochs(sweep, progress)

    def kept_head(self) -> nn.Sequential | None:
        """Give what the method gives."""
        return self.method.kept_head()
