import importlib.resources

import numpy as np
import pytest
import torch
from tests.cohorts import TINY, tiny_run

from scoutview.api import embed as module
from scoutview.api.embed import embed
from scoutview.api.index import index
from scoutview.base.errors import RunError
from scoutview.index.cohort import Cohort
from scoutview.nn.backbones import build_backbone
from scoutview.results.run import RunFolder, read_embeddings
from scoutview.store.reader import Store


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embed")
    demo = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(demo) as path:
        whole = np.load(path)
        arrays = {k: whole[k][:20] for k in whole if k.startswith(("train", "test"))}
    np.savez(folder / "set.npz", **arrays)
    index(folder / "set.npz", folder / "cohort")
    return folder / "cohort"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("run") / "simclr")


def by_hand(cohort, run):
    table = Cohort.open(cohort).table
    store = Store.open(cohort)
    backbone = build_backbone(TINY.model_copy(update={"weights": str(run.backbone)})).eval()
    pixels = np.stack([store.read(row) for row in store.row_of(table["image_id"])])
    with torch.no_grad():
        x = backbone(torch.from_numpy((pixels[:, None] / 255 - 0.4) / 0.2).float())
    return table, x.numpy()


def test_embed__equals_the_backbone_on_the_stored_pixels(cohort, run, tmp_path):
    file = embed(cohort, run.path, tmp_path / "out", batch_size=7)
    rows, features = read_embeddings(file)
    table, expected = by_hand(cohort, run)
    assert rows["image_id"].tolist() == table["image_id"].tolist()
    assert rows["split"].tolist() == table["split"].tolist()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "embeddings.json",
        "embeddings.parquet",
    }


def test_embed__takes_a_part_of_the_cohort(cohort, run, tmp_path):
    rows, features = read_embeddings(
        embed(cohort, run.path, tmp_path / "o", where="split == 'test'")
    )
    assert len(rows) == len(features) == 20
    assert set(rows["split"]) == {"test"}


def test_embed__in_bf16_stays_near_float32(cohort, run, tmp_path):
    whole, half = (
        read_embeddings(embed(cohort, run.path, tmp_path / p, precision=p))[1]
        for p in ("32-true", "bf16-mixed")
    )
    assert not np.array_equal(whole, half)
    assert np.corrcoef(whole.ravel(), half.ravel())[0, 1] > 0.999


def test_embed__resumed_equals_uninterrupted(cohort, run, tmp_path, monkeypatch):
    whole = embed(cohort, run.path, tmp_path / "whole", part=16)

    class Killed(Exception):  # noqa: N818
        pass

    calls = []
    original = module._features

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_features", dies)
        with pytest.raises(Killed):
            embed(cohort, run.path, tmp_path / "o", part=16)
    assert len(list((tmp_path / "o").glob("part-*.npy"))) == 2
    monkeypatch.setattr(module, "_features", lambda *a: calls.append("late") or original(*a))
    resumed = embed(cohort, run.path, tmp_path / "o", part=16, resume=True)
    assert calls.count("late") == 1
    np.testing.assert_array_equal(read_embeddings(whole)[1], read_embeddings(resumed)[1])


def test_embed__refuses_occupied_folders_other_parts_and_runs_without_a_backbone(
    cohort, run, tmp_path
):
    embed(cohort, run.path, tmp_path / "o")
    with pytest.raises(RunError, match="not empty"):
        embed(cohort, run.path, tmp_path / "o")
    with pytest.raises(RunError, match="another embedding"):
        embed(cohort, run.path, tmp_path / "o", where="split == 'test'", resume=True)
    bare = RunFolder.create(tmp_path / "bare", {}, {})
    with pytest.raises(RunError, match="no backbone"):
        embed(cohort, bare.path, tmp_path / "p")
