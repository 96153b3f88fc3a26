import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve
from tests.results.synthetic import make_study

from scoutview.results.collect import Arm, collect
from scoutview.results.figures import label_fraction_curves, roc_band
from scoutview.results.palette import marks
from scoutview.results.study import Initialisation
from scoutview.results.tables import compare_tables


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    study = make_study(tmp_path_factory.mktemp("f"), fractions=(0.01, 0.1), seeds=2, images=80)
    return collect([study.path])


def luminance(colour):
    """Relative luminance of sRGB, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_marks__are_distinct_legible_and_the_same_in_every_study():
    def arm(name, kind, method=""):
        return Arm(name, Initialisation(name=name, kind=kind, method=method), "linear_probe")

    methods = ["simclr", "moco_v2", "byol", "barlow_twins", "swav"]
    arms = [arm(m, "run", m) for m in methods]
    arms += [arm(k, k) for k in ("random", "supervised", "raw_pixels", "imagenet")]
    arms += [arm(f"other{i}", "file") for i in range(4)]
    found = marks(arms)
    assert len({m.colour for m in found.values()}) == len(arms)
    assert len({m.marker for m in found.values()}) == len(arms)
    # WCAG 2.2, 1.4.11: graphics need a contrast of 3 to their background, here white.
    assert min(1.05 / (luminance(m.colour) + 0.05) for m in found.values()) >= 2.8
    assert marks(arms[2:4])["byol"] == found["byol"]


def test_roc_band__of_one_run_is_the_roc_of_scikit_learn(collection):
    run = collection.runs[0]
    grid, middle, low, high = roc_band([run], "pneumonia", replicates=50)
    x, y, _ = roc_curve(run.test["target"], run.test["score"], drop_intermediate=False)
    for rate, sensitivity in zip(grid, middle, strict=True):
        assert sensitivity >= y[x <= rate].max() - 1e-12
    auc = roc_auc_score(run.test["target"], run.test["score"])
    assert np.trapezoid(middle, grid) == pytest.approx(auc, abs=0.02)
    assert (low <= middle + 1e-9).mean() > 0.9
    assert (high >= middle - 1e-9).mean() > 0.9


def test_label_fraction_curves__are_bit_equal_and_name_all_numbers(collection):
    tables = compare_tables(collection, replicates=20)
    first = label_fraction_curves(tables, collection.arms)
    assert first == label_fraction_curves(tables, collection.arms)
    ElementTree.fromstring(first.data)
    assert f"SimCLR: {tables.cell('SimCLR', 0.01).over_seeds.value:.3f} at 1 %" in first.alt


def test_figures__leave_pyplot_alone():
    code = (
        "import sys, scoutview.results.figures as f; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
