"""Whether a policy makes the views that a method uses."""

from collections.abc import Sequence

from scoutview.base.errors import ConfigError


def check_view_count(n_views: int, wanted: int, why: str, do: str) -> None:
    """Refuse a policy that makes views which a method lacks or would not look at.

    Args:
        n_views: Views per image.
        wanted: Views that the method uses.
        why: What it does with them, as the end of a sentence.
        do: What to do instead.

    Raises:
        ConfigError: The two differ.
    """
    if n_views != wanted:
        raise ConfigError(
            f"views must make {wanted} of each image, because {why}; got {n_views}, {do}."
        )


def check_view_numbers(field: str, numbers: Sequence[int], n_views: int) -> None:
    """Refuse numbers of views that a policy does not make.

    Args:
        field: The setting that holds the numbers.
        numbers: Views, counted from 0.
        n_views: Views per image.

    Raises:
        ConfigError: There is none, one is outside [0, n_views), or one stands there twice.
    """
    known = all(0 <= number < n_views for number in numbers)
    if not numbers or not known or len(set(numbers)) < len(numbers):
        fits = tuple(range(min(2, n_views)))
        raise ConfigError(
            f"{field} must hold different views from 0 to {n_views - 1}, because views makes"
            f" {n_views} of each image; got {tuple(numbers)}, set it to {fits} or make more views."
        )
