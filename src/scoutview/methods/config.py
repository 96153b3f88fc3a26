"""What the configurations of all methods share."""

from typing import Self, TypeVar

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError
from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig, ScheduleConfig


class MethodConfig(Config):
    """Base of every method's configuration; each adds `views` and its own settings."""

    optimizer: OptimizerConfig = LARSConfig(lr=0.3)
    """Optimiser."""
    schedule: ScheduleConfig = CosineSchedule()
    """Learning-rate schedule."""

    def preflight(self, dataset_size: int, batch_size: int) -> tuple[Self, list[str]]:
        """Fit the defaults to the data before training.

        Args:
            dataset_size: Images in the training set.
            batch_size: Images in the global batch.

        Returns:
            The configuration with lowered defaults, and a message for each change or doubt.

        Raises:
            ConfigError: A value that the user wrote cannot work; names the largest that can.
        """
        return self, []


C = TypeVar("C", bound=MethodConfig)


def lowered(config: C, field: str, limit: int, why: str) -> tuple[C, list[str]]:
    """Lower a default to a limit; refuse a value above it that the user wrote.

    Args:
        config: A configuration.
        field: Name of an integer setting.
        limit: The largest value that works.
        why: The reason, as the end of a sentence.

    Returns:
        The configuration, and a message if it changed.

    Raises:
        ConfigError: The user wrote a larger value.
    """
    value = getattr(config, field)
    if value <= limit:
        return config, []
    if field in config.model_fields_set:
        raise ConfigError(
            f"{field} must be at most {limit}, because {why}; got {value}, set it to {limit}."
        )
    message = f"{field} lowered from {value} to {limit}, because {why}."
    return config.model_copy(update={field: limit}), [message]
