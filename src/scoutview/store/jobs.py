"""What a worker of the store is given to prepare."""

from dataclasses import dataclass
from typing import Literal

from scoutview.pixels.headers import Locator


@dataclass(frozen=True)
class Item:
    """One image to be stored."""

    entry: int
    """Identifies image, source files and settings together."""
    image_id: str
    locators: tuple[Locator, ...]
    """One file or, for a volume, its slices in order."""
    volume: bool
    inverted: bool


@dataclass(frozen=True)
class Job:
    """Images that one worker prepares at a time."""

    items: tuple[Item, ...]
    codec: Literal["raw", "lz4"]
    max_side: int | None
