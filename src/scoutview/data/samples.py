"""Which samples a training sees: rows of the store, and slices of volumes."""

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError, DataError
from scoutview.pixels.intensity import (
    FileWindow,
    FullRange,
    IntensityPolicy,
    Percentiles,
    Stored,
    default_policy,
    limits,
    to_unit16,
)
from scoutview.store.reader import Store
from scoutview.store.rows import INVERTED, LEVELS, PIXEL_DTYPES, PRESENT, VOLUME, Record

if TYPE_CHECKING:
    from scoutview.index.cohort import Cohort

Rows = NDArray[np.int64]

LUMA: Final = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


class AllSlices(Config):
    """Every slice of a volume is a sample."""

    kind: Literal["all"] = "all"


class EveryNth(Config):
    """Every n-th slice, beginning in the middle of the first n."""

    kind: Literal["every"] = "every"
    n: int = Field(ge=1)


class PerVolume(Config):
    """The same number of slices from each volume, evenly spaced; all of a shorter one."""

    kind: Literal["per_volume"] = "per_volume"
    n: int = Field(ge=1)


SlicePolicy = Annotated[AllSlices | EveryNth | PerVolume, Field(discriminator="kind")]


class DataConfig(Config):
    """Which pixels become samples, and how stored values become grey."""

    where: str | None = None
    """Expression over the columns of the cohort, as "modality == 'CT' and n_slices >= 20"."""
    split: Literal["train", "val", "test"] | None = None
    """Part of the cohort; None takes all."""
    slices: SlicePolicy = AllSlices()
    """Which slices of volumes, along their acquisition axis."""
    intensity: IntensityPolicy | None = None
    """What is black and what is white; None chooses per modality (`default_policy`)."""
    channel: Literal["grey", "red", "green", "blue", "colour"] = "grey"
    """What colour images give; "colour" gives every sample three channels."""


class Samples:
    """Samples of one training set: position in [0, N) to store row and slice.

    Memory is 16 bytes an image, whatever the number of slices.
    """

    def __init__(
        self,
        store: Store,
        rows: Rows,
        config: DataConfig | None = None,
        *,
        targets: NDArray[Any] | None = None,
    ) -> None:
        """Lay out the samples of some rows.

        Args:
            store: Where the pixels are.
            rows: Rows of the store, in order; each must have pixels.
            config: Slices, intensity and channel; `where` and `split` are not looked at here.
            targets: One line per row: classes (N,) int64 or labels (N, L) float32.

        Raises:
            DataError: There is no row, a row has no pixels, or targets do not fit the rows.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) == 0:
            raise DataError("No image is left to train on; check --where and the split.")
        if targets is not None and len(targets) != len(rows):
            raise DataError(f"Targets must match the {len(rows)} rows, got {len(targets)} lines.")
        self.store, self.rows = store, rows
        self.config = config or DataConfig()
        self.targets = targets
        flags, depth = self._scan()
        if not (flags & PRESENT).all():
            raise DataError(
                f"{int((flags & PRESENT == 0).sum())} of {len(rows)} images have no pixels in the"
                " store; leave them out (Store.present) or build the store again."
            )
        self._volumes = bool((flags & VOLUME).any())
        counts = np.where(flags & VOLUME, _slice_counts(depth, self.config.slices), 1)
        # All samples of images before each one; equal to the row number where nothing is a volume.
        self._ends = np.cumsum(counts) if (counts != 1).any() else None
        self.channels = 3 if self.config.channel == "colour" else 1
        self._kept: dict[tuple[Any, ...], bool] = {}

    @classmethod
    def of(
        cls,
        store: Store,
        cohort: "Cohort",
        config: DataConfig | None = None,
        *,
        targets: NDArray[Any] | None = None,
    ) -> "Samples":
        """Choose the images of a cohort that a configuration asks for and the store has.

        Args:
            store: The cohort's store.
            cohort: The cohort.
            config: Which images, slices and grey values.
            targets: One line per image that `where` and `split` leave, before absent ones go.

        Raises:
            DataError: No image is left.
        """
        config = config or DataConfig()
        part = cohort.where(config.where)
        part = part.split(config.split) if config.split else part
        rows = store.row_of(part.table["image_id"])
        there = store.present()[rows]
        return cls(store, rows[there], config, targets=None if targets is None else targets[there])

    def _scan(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        table = self.store.table.mapped
        if not (self.rows.min() >= 0 and self.rows.max() < len(table)):
            raise DataError(f"Rows must be in [0, {len(table)}); take them from Store.row_of.")
        return table["flags"][self.rows], table["depth"][self.rows].astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows) if self._ends is None else int(self._ends[-1])

    def locate(self, positions: Rows) -> tuple[Rows, Rows, list[Record]]:
        """Find samples in the store.

        Args:
            positions: (B,) each in [0, N).

        Returns:
            Image number in `rows` (B,), slice (B,), -1 for images without depth, and records.
        """
        if self._ends is None:
            image, inside = positions, np.zeros_like(positions)
        else:
            image = np.searchsorted(self._ends, positions, side="right")
            inside = positions - np.where(image > 0, self._ends[image - 1], 0)
        records = self.store.table.records(self.rows[image])
        slices = np.full(len(positions), -1, dtype=np.int64)
        for i, record in enumerate(records if self._volumes else ()):
            if record.flags & VOLUME:
                slices[i] = slice_number(int(inside[i]), record.depth, self.config.slices)
        return image, slices, records

    def groups(self) -> Rows:
        """Modality group of every sample, (N,)."""
        groups = self.store.table.mapped["group"][self.rows].astype(np.int64)
        if self._ends is None:
            return groups
        return np.repeat(groups, np.diff(self._ends, prepend=0))

    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """uint8 if every image is 8 bit and kept as it is, else uint16."""
        kinds = np.unique(self.store.table.mapped["dtype"][self.rows])
        policy = self.config.intensity
        plain = policy is None or isinstance(policy, FullRange)
        bits = np.unique(self.store.table.mapped["bits"][self.rows])
        eight = [PIXEL_DTYPES[kind] for kind in kinds] == ["uint8"] and set(bits) <= {0, 8}
        return np.uint8 if eight and plain else np.uint16

    def policy(self, record: Record) -> IntensityPolicy:
        """Return the intensity policy of one image."""
        if self.config.intensity is not None:
            return self.config.intensity
        return _default(self.store.groups[record.group], PIXEL_DTYPES[record.dtype])

    def policies(self) -> dict[str, IntensityPolicy]:
        """Give the intensity policy of each kind of image, by modality and stored type."""
        table = self.store.table.mapped
        kinds = np.unique(np.stack([table[name][self.rows] for name in ("group", "dtype")]), axis=1)
        named = [(self.store.groups[group], PIXEL_DTYPES[dtype]) for group, dtype in kinds.T]
        return {
            f"{modality} {dtype}": self.config.intensity or _default(modality, dtype)
            for modality, dtype in named
        }

    def written_policies(self) -> dict[str, Any]:
        """Give `policies` as plain values, for a file that records them."""
        return {kind: policy.model_dump(mode="json") for kind, policy in self.policies().items()}

    def image(
        self, record: Record, slice_index: int, row: int, window: tuple[slice, slice] | None
    ) -> NDArray[Any]:
        """Read one sample, or a window of it, as the views want it.

        Args:
            record: The image's record.
            slice_index: Slice of a volume, -1 for an image.
            row: The image's row, for its quantiles.
            window: Rows and columns; None is all.

        Returns:
            (H, W), or (H, W, 3) if the configuration asks for colour; uint8 or uint16, whose full
            range is [0, 1].
        """
        if slice_index < 0:
            pixels = self.store.pixels(record, window)
        else:
            depth = slice(slice_index, slice_index + 1)
            pixels = self.store.pixels(record, (depth, *(window or ())))[0]
        form = record[7:14]  # group to slope: all that decides, and repeats from image to image
        kept = self._kept.get(form)
        if kept is None:
            kept = self._kept[form] = self._is_kept(record)
        if kept:
            return pixels
        return to_channels(self._grey(pixels, record, row), self.config.channel)

    def _is_kept(self, record: Record) -> bool:
        """Whether stored pixels are what the views want already."""
        dtype = np.dtype(PIXEL_DTYPES[record.dtype])
        return (
            isinstance(self.policy(record), FullRange)
            and dtype.char in "BH"
            and record.bits in (0, 8 * dtype.itemsize)
            and record.slope > 0
            and not record.flags & INVERTED
            and record.channels == self.channels
        )

    def _grey(self, pixels: NDArray[Any], record: Record, row: int) -> NDArray[Any]:
        policy = self.policy(record)
        inverted = bool(record.flags & INVERTED)
        return to_unit16(
            pixels,
            policy=policy,
            stored=Stored(
                slope=record.slope,
                bits_stored=record.bits,
                photometric="MONOCHROME1" if inverted else "MONOCHROME2",
            ),
            at=self._limits(record, row, policy),
        )

    def _limits(self, record: Record, row: int, policy: IntensityPolicy) -> tuple[float, float]:
        """Stored values that become black and white; quantiles are those of the whole image."""
        center: float | None = record.window_center
        if isinstance(policy, FileWindow) and (
            np.isnan(record.window_center) or np.isnan(record.window_width)
        ):
            policy = policy.without
        if isinstance(policy, Percentiles):
            at = np.array([policy.low, policy.high]) / 100
            low, high = np.interp(at, LEVELS, self.store.levels[row])
            return float(low), float(high)
        return _fixed_limits(
            record.slope,
            record.intercept,
            record.bits,
            PIXEL_DTYPES[record.dtype],
            None if np.isnan(record.window_center) else center,
            None if np.isnan(record.window_width) else record.window_width,
            policy,
        )


@lru_cache(maxsize=1024)
def _fixed_limits(
    slope: float,
    intercept: float,
    bits: int,
    dtype: str,
    center: float | None,
    width: float | None,
    policy: IntensityPolicy,
) -> tuple[float, float]:
    """Limits that do not depend on pixels."""
    return limits(
        None,
        policy=policy,
        stored=Stored(slope, intercept, bits, dtype, window_center=center, window_width=width),
    )


@lru_cache(maxsize=256)
def _default(modality: str, dtype: str) -> IntensityPolicy:
    return default_policy(modality, dtype)


def _slice_counts(depth: Rows, policy: AllSlices | EveryNth | PerVolume) -> Rows:
    if isinstance(policy, EveryNth):
        return np.maximum(1, depth // policy.n)
    if isinstance(policy, PerVolume):
        return np.minimum(depth, policy.n)
    return depth


def slice_number(number: int, depth: int, policy: AllSlices | EveryNth | PerVolume) -> int:
    """Slice of a volume that stands at a place among those that a policy chooses.

    Args:
        number: Place, from 0.
        depth: Slices of the volume.
        policy: The policy.
    """
    if isinstance(policy, EveryNth):
        return min(number * policy.n + policy.n // 2, depth - 1)
    if isinstance(policy, PerVolume) and depth > policy.n:
        return int((number + 0.5) * depth / policy.n)
    return number


def to_channels(image: NDArray[Any], channel: str) -> NDArray[Any]:
    """Give an image the channels that are asked for.

    Args:
        image: (H, W) or (H, W, 3).
        channel: One of `DataConfig.channel`.

    Returns:
        (H, W), or (H, W, 3) for "colour"; same dtype.

    Raises:
        ConfigError: One colour of a grey image is asked for.
    """
    if channel == "colour":
        return image if image.ndim > 2 else np.repeat(image[..., None], 3, axis=-1)
    if channel == "grey":
        return image if image.ndim == 2 else np.rint(image @ LUMA).astype(image.dtype)
    if image.ndim == 2:
        raise ConfigError(f"Channel {channel!r} needs colour images; choose 'grey'.")
    return np.ascontiguousarray(image[..., ("red", "green", "blue").index(channel)])
