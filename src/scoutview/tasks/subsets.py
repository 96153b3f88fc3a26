"""Label fractions: random stratified subsets of patients, equal for everything that is compared."""

import numpy as np
from numpy.typing import NDArray

from scoutview.base.errors import DataError
from scoutview.base.randomness import SUBSETS, generator


def label_subset(
    patients: NDArray[np.generic],
    targets: NDArray[np.float64],
    *,
    fraction: float,
    seed: int,
    fold: int = -1,
) -> NDArray[np.bool_]:
    """Choose a share of the training patients.

    Every stratum (patients with the same labels) is shuffled, then walked through at equal pace, so
    each share of patients has each stratum in proportion, to within one patient. Shares of one seed
    contain each other: the patients of 1 % are among those of 10 %.

    Args:
        patients: Patient of each training image, (N,).
        targets: 1, 0 or NaN, (N, L). A patient has a label if any image has it.
        fraction: Share of the patients, in (0, 1].
        seed: Another seed, another subset. Nothing else enters, so all initialisations that are
            compared at a seed learn from the same patients.
        fold: Cross-validation fold, -1 for a hold-out split.

    Returns:
        True for the images of the chosen patients, (N,); at least one patient.

    Raises:
        DataError: The fraction is not in (0, 1], or there is no image.
    """
    if not 0 < fraction <= 1:
        raise DataError(f"A label fraction must be in (0, 1], got {fraction}.")
    if not len(patients):
        raise DataError("There is no labelled training image to choose from.")
    names, inverse = np.unique(patients, return_inverse=True)
    has = np.full((len(names), targets.shape[1]), -1.0)  # -1: no image says
    for column in range(targets.shape[1]):
        known = ~np.isnan(targets[:, column])
        np.maximum.at(has[:, column], inverse[known], targets[known, column])
    _, stratum = np.unique(has, axis=0, return_inverse=True)
    stratum = stratum.reshape(-1)
    rng = generator(seed, SUBSETS, fold + 1)
    order = rng.permutation(len(names))
    start = rng.random(int(stratum.max()) + 1)
    place = np.empty(len(names))
    for one in range(len(start)):
        members = order[stratum[order] == one]
        place[members] = (np.arange(len(members)) + start[one]) / len(members)
    count = max(1, round(fraction * len(names)))
    chosen = np.zeros(len(names), dtype=bool)
    chosen[np.argsort(place, kind="stable")[:count]] = True
    return chosen[inverse]
