"""The comparison of all methods, on a small set and one step of training."""

from pathlib import Path

import numpy as np
import pytest

from scoutview.api.index import index
from scoutview.index.config import IndexConfig
from scoutview.methods import METHODS
from scoutview.methods.config import MethodConfig
from scoutview.recipes.method_comparison import (
    BATCH,
    compare_methods,
    settings_of,
)
from scoutview.results.provenance import environment


def small_set(folder: Path, train: int) -> Path:
    """Images of which half are brighter, as one npz with the parts train, val and test."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("val", 20), ("test", 20)):
        labels = np.arange(count) % 2
        noise = rng.normal(100, 30, (count, 28, 28)) + 40 * labels[:, None, None]
        arrays[f"{part}_images"] = noise.clip(0, 255).astype(np.uint8)
        arrays[f"{part}_labels"] = labels[:, None]
    (folder / "source").mkdir()
    np.savez(folder / "source" / "set.npz", **arrays)
    return index(folder / "source", folder / "cohort", config=IndexConfig(workers=1))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_comparison__scores_every_run_once_and_keeps_it(tmp_path):
    cohort = small_set(tmp_path, train=80)
    wanted = {"side": 28, "methods": ("simclr",), "seeds": (0,), "samples": 2 * BATCH}
    lines = compare_methods(cohort, tmp_path / "out", **wanted)
    assert [line["method"] for line in lines] == ["untrained", "simclr"]
    assert lines[1]["steps"] == 2
    assert lines[1]["samples_seen"] == 2 * BATCH
    assert lines[1]["peak_mb"] > 100
    for line in lines:
        assert line["error"] == ""
        assert line["commit"] == environment()["commit"]
        for score in ("knn", "linear_10", "linear_100"):
            assert 0 <= line[f"{score}_low"] <= line[f"{score}_auc"] <= line[f"{score}_high"] <= 1
    weights = tmp_path / "out" / "runs" / "simclr-seed0" / "backbone.safetensors"
    before = weights.stat().st_mtime_ns
    assert compare_methods(cohort, tmp_path / "out", **wanted) == lines
    assert weights.stat().st_mtime_ns == before


@pytest.mark.slow
def test_comparison__reports_a_method_that_cannot_work_here(tmp_path):
    cohort = small_set(tmp_path, train=BATCH - 20)
    lines = compare_methods(
        cohort, tmp_path / "out", side=28, methods=("simclr",), seeds=(0,), samples=BATCH
    )
    assert "batch_size" in lines[1]["error"]
    assert "knn_auc" not in lines[1]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_settings__leave_views_to_the_data_and_narrow_the_heads(name):
    settings = settings_of(name)
    assert isinstance(settings, MethodConfig)
    assert settings.model_fields_set <= {"hidden_dim", "output_dim"}
