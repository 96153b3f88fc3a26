import io

import numpy as np
import pandas as pd
from PIL import Image

from scoutview.results.gallery import (
    embedding_map,
    nearest,
    neighbour_grid,
    project,
    sample,
    spread,
)


def rows(n, split="test"):
    return pd.DataFrame({"image_id": [f"{i}" for i in range(n)], "split": split})


def flat_images(ids):
    return [np.full((8, 8), int(name) / 100, np.float32) for name in ids]


def test_nearest__is_by_cosine_not_by_length():
    bank = np.array([[1, 0], [10, 10], [0, 3]], np.float32)
    order, cosine = nearest(np.array([[5, 4]], np.float32), bank, 3)
    assert order.tolist() == [[1, 0, 2]]
    by_hand = [9 / np.sqrt(82), 5 / np.sqrt(41), 4 / np.sqrt(41)]
    np.testing.assert_allclose(cosine[0], by_hand, rtol=1e-6)


def test_neighbour_grid__shows_both_classes_and_counts_agreement():
    table = pd.concat([rows(4), rows(6, "train").assign(image_id=[str(i) for i in range(4, 10)])])
    features = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]] + [[1, 0]] * 3 + [[0, 1]] * 3)
    classes = ["a", "a", "b", "b"] + ["a"] * 3 + ["b", "b", "a"]
    picture = neighbour_grid(
        "net", table, features.astype(np.float32), classes, flat_images, queries=4, k=3
    )
    # Test images of class a find three of a; those of b find b, b, a: (3 + 3 + 2 + 2) / 12.
    assert "83.3 % of the 3 nearest share the label" in picture.caption
    assert Image.open(io.BytesIO(picture.data)).width == 2 * picture.width


def test_neighbour_grid__without_training_images_is_none():
    features = np.eye(4, dtype=np.float32)
    assert neighbour_grid("net", rows(4), features, ["a"] * 4, flat_images) is None


def test_project__keeps_groups_apart_and_is_repeatable():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 1, (30, 20)), rng.normal(6, 1, (30, 20))])
    points = project(features.astype(np.float32), seed=0)
    np.testing.assert_array_equal(points, project(features.astype(np.float32), seed=0))
    centres = points[:30].mean(axis=0), points[30:].mean(axis=0)
    spread_within = max(points[:30].std(), points[30:].std())
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread_within


def test_spread__takes_far_points_first():
    line = np.column_stack([np.linspace(0, 1, 101), np.zeros(101)])
    chosen = line[spread(line, 3)][:, 0]
    assert sorted(chosen.tolist()) == [0.0, 0.5, 1.0]


def test_sample__takes_all_when_there_are_few():
    assert sample(3, 10, 0).tolist() == [0, 1, 2]
    assert len(set(sample(100, 10, 0))) == 10


def test_embedding_map__draws_without_labels():
    features = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    picture = embedding_map("net", rows(20), features, [""] * 10 + ["a"] * 10, flat_images)
    assert picture.kind == "png"
    assert "20 test images" in picture.alt
