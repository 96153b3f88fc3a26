"""The demo's own recipe, with a quarter of its images and a hundredth of its budget."""

import numpy as np
import pytest

from scoutview.methods import METHODS
from scoutview.recipes import demo


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo__names_the_copies_shows_every_arm_and_goes_on(
    quarter_of_the_set, tmp_path, monkeypatch
):
    with np.load(quarter_of_the_set) as read:
        arrays = dict(read)
    for kind in ("images", "labels"):
        arrays[f"train_{kind}"][:4] = arrays[f"val_{kind}"][:4]
    np.savez(quarter_of_the_set, **arrays)
    monkeypatch.setattr(demo, "SAMPLES", 256)
    monkeypatch.setattr(demo, "WARMUP_EPOCHS", 0.0)
    monkeypatch.setattr(demo, "SUPERVISED_SAMPLES", 64)
    monkeypatch.setattr(demo, "SEEDS", (0, 1))
    done = demo.run_demo(tmp_path / "demo")
    text = done.page.read_text(encoding="utf-8")
    assert "4 images of train are exact copies of val" in text
    for arm in ("SimCLR", "BYOL", "random", "supervised", "raw pixels"):
        assert f"| {arm} |" in done.table
    assert (tmp_path / "demo" / "contact_sheet.png").is_file()
    weights = tmp_path / "demo" / "pretraining" / "SimCLR" / "backbone.safetensors"
    before = weights.stat().st_mtime_ns
    again = demo.run_demo(tmp_path / "demo")
    assert weights.stat().st_mtime_ns == before  # nothing was trained again
    assert again.table == done.table


def test_demo__full_compares_all_methods():
    names = [arm.name for arm in demo.demo_config(full=True).arms]
    assert names[:2] == ["SimCLR", "BYOL"]
    assert {"MoCo v2", "Barlow Twins", "SwAV", "InterCLR on BYOL"} < set(names)
    assert set(demo.self_supervised()) == set(METHODS) - {"supervised"}
    assert len(set(names)) == len(METHODS) - 1 + 3
    assert demo.demo_config().transfer.fractions == (0.01, 0.1, 1.0)
    assert len(demo.demo_config().transfer.seeds) == 5
