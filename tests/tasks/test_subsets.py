import numpy as np
import pytest

from scoutview.base.errors import DataError
from scoutview.tasks.subsets import label_subset


def cohort(patients=1000, per_patient=2, rare=0.05):
    rng = np.random.default_rng(0)
    ids = np.repeat([f"p{i:04d}" for i in range(patients)], per_patient)
    labels = np.stack([rng.random(patients) < 0.3, rng.random(patients) < rare], axis=1)
    return ids, np.repeat(labels.astype(float), per_patient, axis=0)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_label_subset__has_the_share_of_patients_and_all_their_images(fraction):
    ids, targets = cohort()
    chosen = label_subset(ids, targets, fraction=fraction, seed=0)
    assert len(np.unique(ids[chosen])) == round(1000 * fraction)
    assert not set(ids[chosen]) & set(ids[~chosen])


@pytest.mark.parametrize("seed", range(5))
def test_label_subset__keeps_every_stratum_in_proportion(seed):
    ids, targets = cohort()
    chosen = label_subset(ids, targets, fraction=0.1, seed=seed)
    for pattern in np.unique(targets, axis=0):
        members = (targets == pattern).all(axis=1)
        expected = 0.1 * len(np.unique(ids[members]))
        # each of the other strata may shift the common threshold by one patient
        assert abs(len(np.unique(ids[members & chosen])) - expected) <= 2


def test_label_subset__is_nested_and_differs_by_seed_and_fold():
    ids, targets = cohort()
    one, ten = (label_subset(ids, targets, fraction=f, seed=3) for f in (0.01, 0.1))
    assert ten[one].all()
    again = label_subset(ids, targets, fraction=0.1, seed=3)
    np.testing.assert_array_equal(ten, again)
    assert (label_subset(ids, targets, fraction=0.1, seed=4) != ten).any()
    assert (label_subset(ids, targets, fraction=0.1, seed=3, fold=0) != ten).any()


def test_label_subset__chooses_every_patient_equally_often():
    ids, targets = cohort(patients=60, per_patient=1, rare=0.2)
    counts = sum(label_subset(ids, targets, fraction=0.25, seed=s).astype(int) for s in range(800))
    # 200 expected; five binomial standard deviations
    assert np.abs(counts - 200).max() < 5 * np.sqrt(800 * 0.25 * 0.75)


def test_label_subset__does_not_depend_on_the_order_of_images():
    ids, targets = cohort(patients=80)
    shuffle = np.random.default_rng(1).permutation(len(ids))
    plain = label_subset(ids, targets, fraction=0.2, seed=0)
    mixed = label_subset(ids[shuffle], targets[shuffle], fraction=0.2, seed=0)
    np.testing.assert_array_equal(plain[shuffle], mixed)


def test_label_subset__takes_missing_labels_as_a_stratum():
    ids = np.array([f"p{i}" for i in range(40)])
    targets = np.where(np.arange(40) < 20, 1.0, np.nan)[:, None]
    chosen = label_subset(ids, targets, fraction=0.5, seed=0)
    assert 9 <= chosen[:20].sum() <= 11


def test_label_subset__refuses_impossible_fractions():
    with pytest.raises(DataError, match=r"\(0, 1\], got 0"):
        label_subset(np.array(["a"]), np.zeros((1, 1)), fraction=0, seed=0)
    with pytest.raises(DataError, match="no labelled training image"):
        label_subset(np.array([]), np.zeros((0, 1)), fraction=1, seed=0)
