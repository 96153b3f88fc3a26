"""What the configurations of all methods share."""

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

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
            batch_size: Images that meet in a loss or a norm: the global batch, or where that is
                accumulated one part of it.

        Returns:
            The configuration with lowered defaults, and a message for each change or doubt.

        Raises:
            ConfigError: A value that the user wrote cannot work; names the largest that can.
        """
        return self, []

    @property
    def equal_modalities(self) -> bool:
        """Whether each batch must hold equal parts of all modalities."""
        return False

    def preflight_modalities(
        self, sizes: Mapping[str, int], batch_size: int
    ) -> tuple[Self, list[str]]:
        """Fit the defaults to the data of each modality; most methods look at all together.

        Args:
            sizes: Training images of each modality, at least one modality.
            batch_size: As for `preflight`, a multiple of the number of modalities where
                `equal_modalities` holds.

        Returns:
            As `preflight`.

        Raises:
            ConfigError: As `preflight`.
        """
        return self.preflight(sum(sizes.values()), batch_size)

    def first_epochs(self) -> dict[str, tuple[float, str]]:
        """Name the settings that count epochs from the start of the training.

        Returns:
            For each, the share of the training that its default may take, in (0, 1), and what
            never happens if it takes all of it.
        """
        return {}

    def preflight_budget(self, epochs: float) -> tuple[Self, list[str]]:
        """Fit the settings that count epochs to the length of the training.

        Args:
            epochs: Passes over the training set, > 0; below 1 for a part of one.

        Returns:
            The configuration with lowered defaults, and a message for each.

        Raises:
            ConfigError: A value that the user wrote can never take effect.
        """
        config, notes = self, []
        for field, (share, never) in self.first_epochs().items():
            value = getattr(self, field)
            most = type(value)(round(share * epochs, 6))  # whole epochs where these are counted
            if field in self.model_fields_set and value >= epochs:
                raise ConfigError(
                    f"{field} must be below the {epochs:g} epochs of the training, or {never}; got"
                    f" {value:g}, lower it, for example to {most:g}, or raise the budget."
                )
            if field not in self.model_fields_set and value > most:
                config = config.with_defaults(**{field: most})
                notes.append(
                    f"{field} lowered from {value:g} to {most:g}, because the training has"
                    f" {epochs:g} epochs."
                )
        return config, notes

    def for_network(self, kind: Literal["convolutional", "transformer"]) -> Self:
        """Choose the defaults that depend on the kind of network, before `preflight`.

        Args:
            kind: Of the backbone.

        Returns:
            The configuration; what the user wrote stands in it unchanged.
        """
        return self

    def with_defaults(self, **values: Any) -> Self:
        """Replace defaults; what the user wrote stays, and what is replaced stays a default."""
        written = self.model_fields_set & values.keys()
        groups = {name: values[name] for name in written if isinstance(values[name], Config)}
        kept = {name: getattr(self, name).over(default) for name, default in groups.items()}
        silent = {name: value for name, value in values.items() if name not in written}
        copy = self.model_copy(update=silent | kept)
        copy.model_fields_set.difference_update(silent)
        return copy


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


def lowered_queue(
    config: C, dataset_size: int, batch_size: int, *, may_be_empty: bool = False
) -> tuple[C, list[str]]:
    """Lower the default `queue_length` to the whole batches of the data, a written one to the data.

    Args:
        config: A configuration with an integer setting `queue_length`.
        dataset_size: Images in the training set.
        batch_size: Images that are computed together.
        may_be_empty: Whether 0 is no queue.

    Returns:
        The configuration, and a message if it changed.

    Raises:
        ConfigError: The queue is shorter than a batch, or the user wrote one longer than the data.
    """
    limit = longest_queue(config, dataset_size, batch_size)
    length: int = config.queue_length  # type: ignore[attr-defined]
    if length < batch_size and not (may_be_empty and length == 0):
        must, other = ("be 0 or hold", "set it to 0") if may_be_empty else ("hold", "")
        raise ConfigError(
            f"queue_length must {must} at least the batch of {batch_size}, got {length}; raise it"
            f" to {limit} or {other or 'lower batch_size'}."
        )
    return lowered(config, "queue_length", limit, f"there are {dataset_size} training images")


def longest_queue(config: MethodConfig, dataset_size: int, batch_size: int) -> int:
    """Return the rows that a queue may hold: the data, as a default whole batches of them."""
    whole = (
        dataset_size
        if "queue_length" in config.model_fields_set
        else dataset_size // batch_size * batch_size
    )
    return max(batch_size, whole)


def lowered_negatives(config: C, dataset_size: int, batch_size: int) -> tuple[C, list[str]]:
    """Lower the default number of `negatives` to the images that are outside a batch.

    Args:
        config: A configuration with an integer setting `negatives`.
        dataset_size: Images in the training set.
        batch_size: Images in the global batch.

    Returns:
        The configuration, and a message if it changed.

    Raises:
        ConfigError: No image is left, or the user wrote more negatives.
    """
    others = dataset_size - batch_size
    if others < 1:
        raise ConfigError(
            f"Negatives are images outside the batch, so batch_size must be at most"
            f" {dataset_size - 1}, got {batch_size}; lower it."
        )
    why = f"of {dataset_size} training images a batch leaves {others}"
    return lowered(config, "negatives", others, why)
