"""What `pretrain` checks about modalities and labels before anything is written."""

import numpy as np

from scoutview.base.errors import ConfigError
from scoutview.data.batch import IGNORE
from scoutview.data.samples import Samples
from scoutview.store.reader import Store
from scoutview.tasks.targets import Targets


def modality_sizes(samples: Samples, store: Store) -> dict[str, int]:
    """Count the training images of every modality that is there, in the order of the store."""
    groups, counts = np.unique(samples.groups(), return_counts=True)
    return {store.groups[group]: int(n) for group, n in zip(groups, counts, strict=True)}


def check_equal_parts(sizes: dict[str, int], batch_size: int, parts: int) -> list[str]:
    """Make sure that batches can hold equal parts of all modalities.

    Args:
        sizes: Training images of each modality.
        batch_size: Images of an optimiser step.
        parts: Pieces in which a step is computed: processes times accumulation.

    Returns:
        What looks unintended.

    Raises:
        ConfigError: A modality has one image, or the batch cannot be divided.
    """
    count = len(sizes)
    if count == 1:
        return ["All images are of one modality, so balancing modalities changes nothing."]
    single = [name for name, size in sizes.items() if size < 2]
    if single:
        raise ConfigError(
            f"Every modality needs at least 2 training images to be balanced, {', '.join(single)}"
            " has 1; leave it out with data.where, or do not balance modalities."
        )
    unit = count * parts
    if batch_size % unit:
        below = batch_size // unit * unit
        raise ConfigError(
            f"batch_size must be a multiple of {unit} to hold equal parts of {count} modalities"
            f" ({', '.join(sizes)}) in each of {parts} pieces (devices x nodes x accumulate), got"
            f" {batch_size}; use {below or unit} or {below + unit}."
        )
    each = batch_size // count
    small = [f"{name} ({size})" for name, size in sizes.items() if size < each]
    if small:
        return [
            f"A batch holds {each} images of every modality, more than {', '.join(small)} has, so"
            " some stand in it twice; lower batch_size."
        ]
    return []


def check_labels(samples: Samples, store: Store, targets: Targets | None, what: str) -> list[str]:
    """Make sure that there is something to learn from labels.

    Args:
        samples: The training set.
        store: Where it is.
        targets: The cohort's targets, None without labels.
        what: Who needs them, as the beginning of a sentence.

    Returns:
        How many images are labelled, and modalities without labels.

    Raises:
        ConfigError: There are no labels, or they are missing in all training images.
    """
    if targets is None or samples.targets is None:
        raise ConfigError(
            f"{what} needs labels, and the cohort has none that can be learnt together; index it"
            " with a table of labels, or choose some with `labels`."
        )
    known = (samples.targets != IGNORE).reshape(len(samples.targets), -1)  # (N, L)
    if not known.any():
        raise ConfigError(
            f"{what} needs labels, but all labels ({', '.join(targets.columns)}) are missing in the"
            f" {len(known)} training images; choose others with `labels`, check the split, or count"
            " uncertain ones with `uncertain`."
        )
    labelled = known.any(axis=1)
    notes = [f"{what} learns from the labels of {int(labelled.sum())} of {len(known)} images."]
    groups = store.table.mapped["group"][samples.rows]
    counts = {store.groups[g]: int(labelled[groups == g].sum()) for g in np.unique(groups)}
    for number, who, why in ((0, "No", ""), (1, "Only one", ", too few to learn from")):
        few = [name for name, count in counts.items() if count == number]
        if few:
            notes.append(f"{who} image of {', '.join(few)} has a label{why}.")
    never = [name for name, one in zip(targets.columns, known.T, strict=False) if not one.any()]
    if never and not targets.exclusive:
        notes.append(f"No training image has a value for {', '.join(never)}.")
    return notes
