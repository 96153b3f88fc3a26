"""The one thing that every method and task receives."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Self

import torch
from torch import Tensor

IGNORE: Final = -100
"""Target value that no loss counts: a missing or ignored label."""


@dataclass(frozen=True)
class Text:
    """Tokenised reports of a batch."""

    tokens: Tensor
    """Token ids, (B, L) int64, padded."""
    mask: Tensor
    """True for real tokens, (B, L) bool."""
    sentences: Tensor
    """Sentence number of each token, (B, L) int64, -1 outside any sentence."""


@dataclass(frozen=True)
class Images:
    """Images whose views are still to be made, where the batch will be."""

    stacks: list[Tensor]
    """One tensor per size that occurs, (b, C, *S) uint8 or uint16, whose full range is [0, 1]."""
    members: list[list[int]]
    """Places in the batch of the images of each stack."""
    params: list[Sequence[Any]]
    """Of every image of the batch, the parameters of all its views (`ViewPipeline.draw`)."""


@dataclass(frozen=True)
class Batch:
    """Views of B images with all that a method may ask about them.

    A view tensor travels narrow and with one channel (uint8, uint16 or float16) and is widened on
    the device; methods see float tensors of the backbone's channels, standardised.
    """

    views: list[Tensor]
    """One tensor per view, (B, C, *S); views of one size stand together."""
    geometry: list[Tensor]
    """One tensor per view, (B, ndim, ndim + 1) float32: maps index coordinates of the view (pixel
    centres at integers, order of `*S`) to those of the stored image, with crop, flip, rotation."""
    rows: Tensor
    """Row of each image in the training set, (B,) int64, in [0, N): what memory banks index."""
    image_keys: Tensor
    """First 63 bits of each image's id, (B,) int64: the address of its randomness."""
    groups: Tensor
    """Modality group of each image, (B,) int64; in pre-training in [0, groups of the training set).
    """
    targets: Tensor | None = None
    """Classes (B,) int64, or multi-label (B, L) float32; `IGNORE` where missing."""
    masks: list[Tensor] = field(default_factory=list)
    """Hidden patches per view, (B, P) bool, True = hidden."""
    text: Text | None = None
    images: Images | None = None
    """Instead of views, until they are made on the device; methods never see it."""

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Copy every tensor to a device."""

        def move(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, list):
                return [move(item) for item in value]
            if isinstance(value, Images):
                stacks = [stack.to(device, non_blocking=non_blocking) for stack in value.stacks]
                return replace(value, stacks=stacks)
            if isinstance(value, Text):
                return Text(*(move(getattr(value, f.name)) for f in fields(value)))  # type: ignore[arg-type]
            return value

        moved: dict[str, Any] = {f.name: move(getattr(self, f.name)) for f in fields(self)}
        return replace(self, **moved)
