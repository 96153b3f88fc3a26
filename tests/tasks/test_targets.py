import numpy as np
import pandas as pd
import pytest

from scoutview.base.errors import ConfigError, DataError
from scoutview.index.labels import Label
from scoutview.tasks.targets import read_targets

TABLE = pd.DataFrame(
    {
        "effusion": [1.0, 0.0, np.nan, -1.0],
        "nodule": [np.nan, 1.0, np.nan, 0.0],
        "density": ["b", "", "a", "c"],
    }
)
LABELS = [
    Label("effusion", "binary"),
    Label("nodule", "binary"),
    Label("density", "multiclass", ("a", "b", "c")),
]


@pytest.mark.parametrize(("policy", "value"), [("ones", 1.0), ("zeros", 0.0), ("ignore", np.nan)])
def test_read_targets__applies_the_policy_for_uncertain_labels(policy, value):
    found = read_targets(TABLE, LABELS, ["effusion", "nodule"], uncertain=policy)
    assert found.columns == ("effusion", "nodule")
    expected = [[1, np.nan], [0, 1], [np.nan, np.nan], [value, 0]]
    np.testing.assert_array_equal(found.values, expected)
    np.testing.assert_array_equal(found.known, [True, True, False, True])
    missing = np.isnan(expected)
    np.testing.assert_array_equal(found.for_loss(-100), np.where(missing, -100, expected))


def test_read_targets__turns_classes_into_columns():
    found = read_targets(TABLE, LABELS, ["density"])
    assert found.exclusive
    assert found.columns == ("density=a", "density=b", "density=c")
    np.testing.assert_array_equal(found.classes, [1, -1, 0, 2])
    np.testing.assert_array_equal(found.for_loss(-100), [1, -100, 0, 2])
    np.testing.assert_array_equal(found.of(np.array([2, 3])).classes, [0, 2])


def test_read_targets__refuses_unknown_and_mixed_labels():
    with pytest.raises(ConfigError, match="Did you mean 'effusion'"):
        read_targets(TABLE, LABELS, ["efusion"])
    with pytest.raises(DataError, match="of which density have classes"):
        read_targets(TABLE, LABELS)
    with pytest.raises(DataError, match="no labels"):
        read_targets(TABLE, [])
