"""What a training needs to know besides its objective and its data."""

from typing import Literal, Self

from pydantic import Field, model_validator

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.nn.optim_config import CosineSchedule, OptimizerConfig, ScheduleConfig, SGDConfig

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
LoggerName = Literal["tensorboard", "mlflow", "wandb"]


class FitConfig(Config):
    """One training: budget, batch, optimiser, devices, and how often things are written."""

    samples: int | None = Field(default=None, ge=1)
    """Budget in images seen, rounded up to whole steps. Set either samples or epochs."""
    epochs: int | None = Field(default=None, ge=1)
    """Budget in passes over the training set; incomplete last batches are left out."""
    batch_size: int = Field(default=256, ge=1)
    """Images per optimiser step over all processes."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a step is computed in; each part is its own batch for negatives and norms."""
    optimizer: OptimizerConfig = SGDConfig(lr=0.03)
    """Optimiser; a method's own is its paper's."""
    schedule: ScheduleConfig = CosineSchedule()
    """Learning-rate schedule."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; null does not clip."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the run."""
    accelerator: Literal["cpu", "gpu"] | None = None
    """Kind of device; null uses a GPU where there is one."""
    devices: int = Field(default=1, ge=1)
    """Processes, and GPUs, per node."""
    num_nodes: int = Field(default=1, ge=1)
    """Machines; more than one needs torchrun or SLURM."""
    precision: Precision = "32-true"
    """Number format of the forward pass; "-mixed" keeps the weights in float32."""
    batch_norm: Literal["synchronised", "per_node", "per_process"] = "synchronised"
    """Whether batch statistics are taken over all processes, or over those of a machine."""
    channels_last: bool = True
    """Memory format of images and convolutions."""
    compile: bool = False
    """Compile the backbone; pays on GPUs in long runs."""
    deterministic: bool | None = None
    """Ask PyTorch for deterministic kernels; null asks on the CPU only, on GPUs they are slower."""
    log_every: int = Field(default=10, ge=1)
    """Steps between lines of metrics; the device is read only then."""
    checkpoint_every: int | None = Field(default=500, ge=1)
    """Steps between checkpoints; null writes only the last one."""
    loggers: tuple[LoggerName, ...] = ()
    """Further places for the metrics; they need the extra "track"."""
    progress: bool = True
    """Show a progress bar when the terminal can."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.samples is None) == (self.epochs is None):
            raise ValueError(
                f"set exactly one of samples and epochs (samples={self.samples},"
                f" epochs={self.epochs})"
            )
        return self

    @property
    def world(self) -> int:
        """Processes of the whole training."""
        return self.devices * self.num_nodes

    @property
    def part_size(self) -> int:
        """Images that one process sees at once.

        Raises:
            ConfigError: The batch does not divide into processes and parts.
        """
        parts = self.world * self.accumulate
        if self.batch_size % parts:
            raise ConfigError(
                f"batch_size must be a multiple of devices x nodes x accumulate = {parts},"
                f" got {self.batch_size}; the next that works is"
                f" {(self.batch_size // parts + 1) * parts}."
            )
        return self.batch_size // parts

    def steps_per_epoch(self, dataset_size: int) -> int:
        """Whole batches in the training set.

        Raises:
            ConfigError: The training set is smaller than one batch.
        """
        if dataset_size < self.batch_size:
            raise ConfigError(
                f"batch_size {self.batch_size} is larger than the training set of {dataset_size};"
                f" the largest that works is {dataset_size}."
            )
        return dataset_size // self.batch_size

    def total_steps(self, dataset_size: int) -> int:
        """Optimiser steps of the whole budget."""
        if self.samples is not None:
            return -(-self.samples // self.batch_size)
        assert self.epochs is not None
        return self.epochs * self.steps_per_epoch(dataset_size)
