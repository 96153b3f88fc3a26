"""What the loop asks of a method or a task, and what it gives.

Methods and tasks are `Objective`s. The loop calls `forward`, steps the optimiser, then
`after_update`; between epochs it calls `between_epochs`. Nothing else of a method runs while it
trains. What is asked once stands beside it: of the objective `constant_rate` (before training) and
`kept_head` (after it), of the configuration `for_network`, `preflight_budget`, `equal_modalities`
and `preflight_modalities` (before anything is built, see `methods/config.py`). Each has a default
that does nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from scoutview.data.batch import Batch

if TYPE_CHECKING:
    from scoutview.nn.backbones import Backbone


@dataclass(frozen=True)
class Progress:
    """Where training stands. Steps and epochs count from 0."""

    step: int
    total_steps: int
    epoch: int
    total_epochs: int
    dataset_size: int
    """Images in the training set, N."""
    steps_per_epoch: int = 1
    """Whole batches in the training set, at least 1, also where the training is shorter."""

    @property
    def epochs(self) -> float:
        """Length of the training in epochs; below 1 where most images are never seen."""
        return self.total_steps / self.steps_per_epoch

    def within(self, epochs: float) -> bool:
        """Say whether this step lies in the first `epochs` epochs."""
        return self.step < epochs * self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """Share of all steps that is done, in [0, 1]."""
        return self.step / max(1, self.total_steps)


@dataclass(frozen=True)
class StepOutput:
    """What one forward pass returns."""

    loss: Tensor
    """Scalar, to be minimised."""
    logs: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars on the device; the loop reads them every few steps, never in between."""
    features: Tensor | None = None
    """Backbone features of the first view, (B, D), with their graph: hybrid training puts a label
    head on them without a second pass. Who only looks at them detaches them."""


@dataclass(frozen=True)
class LabelSpec:
    """What the targets of a batch mean."""

    kind: Literal["binary", "multilabel", "multiclass"]
    """Multi-class targets are (B,) int64, the others (B, L) float32 with L = len(names)."""
    names: tuple[str, ...]
    """The labels (one if binary), or the classes in the order of their numbers."""

    @property
    def outputs(self) -> int:
        """Width of the classifier: one logit per label or class."""
        return len(self.names)


Sweep = Callable[[], Iterator[Batch]]
"""Starts one ordered pass over the training set with the evaluation view, sharded by process."""


class Objective(nn.Module):
    """Base of every method and task.

    All that training depends on (teacher, queue, bank, assignments, counters) is a parameter or a
    persistent buffer, so a checkpoint is `state_dict()` and nothing else.
    """

    backbone: "Backbone"
    self_supervised: ClassVar[bool] = True
    """Whether the loss comes from the images alone; False for what learns from labels. Only
    self-supervised training can collapse, so only it is watched for collapse."""
    constant_rate: tuple[str, ...] = ()
    """Parts, by the beginning of their parameters' names, whose learning rate stays at its peak
    while that of the others follows the schedule."""

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of one batch."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch, progress).")

    def after_update(self, progress: Progress) -> None:
        """Update teacher, queue or bank after the optimiser has stepped."""

    def between_epochs(self, sweep: Sweep, progress: Progress) -> None:
        """Work over the whole training set (clustering) before epoch `progress.epoch` begins."""

    def kept_head(self) -> nn.Sequential | None:
        """Give the layers behind the backbone that fine-tuning may start from; most have none.

        Returns:
            A linear layer, batch norm and ReLU, from (B, dim) to (B, width).
        """
        return None
