import cv2
import numpy as np
import pytest
from tests.store.conftest import PNEUMONIA, index, texture, write_png

from scoutview.store.build import build_store
from scoutview.store.duplicates import RADIUS, HashIndex, correlation, find_duplicates


@pytest.fixture(scope="module")
def store(pneumonia):
    return build_store(pneumonia, workers=1)


@pytest.fixture(scope="module")
def found(store, pneumonia):
    return find_duplicates(store, pneumonia)


def moved(image, dy, dx):
    """Shift an image; what enters repeats the edge."""
    size = image.shape[::-1]
    move = np.float32([[1, 0, dx], [0, 1, dy]])
    return cv2.warpAffine(image, move, size, borderMode=cv2.BORDER_REPLICATE)


def rewindowed(image, gain, shift):
    return np.clip(image.astype(float) * gain + shift, 0, np.iinfo(image.dtype).max).astype(
        image.dtype
    )


def test_find_duplicates__finds_all_exact_copies_of_pneumoniamnist(found, pneumonia):
    arrays = np.load(PNEUMONIA)
    parts = {part: [x.tobytes() for x in arrays[f"{part}_images"]] for part in ("train", "val")}
    crossing = found[(found["kind"] == "exact") & (found["split_a"] != found["split_b"])]
    assert {frozenset(pair) for pair in crossing[["split_a", "split_b"]].to_numpy().tolist()} == {
        frozenset(("train", "val"))
    }
    ids = set(crossing["image_id_a"]) | set(crossing["image_id_b"])
    splits = pneumonia.table.set_index("image_id")["split"]
    by_hand = {part: sum(x in set(parts[other]) for x in parts[part])
               for part, other in (("train", "val"), ("val", "train"))}  # fmt: skip
    assert len(set(parts["train"]) & set(parts["val"])) == 8
    assert {part: sum(splits[i] == part for i in ids) for part in by_hand} == by_hand


def test_find_duplicates__finds_every_pair_of_near_copies_that_comparing_all_finds(found):
    arrays = np.load(PNEUMONIA)
    images = np.unique(
        np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")]), axis=0
    )
    inner = images[:, 4:-4, 4:-4].reshape(len(images), -1).astype(np.float32)
    inner -= inner.mean(axis=1, keepdims=True)
    inner /= np.linalg.norm(inner, axis=1, keepdims=True)
    pairs = int((np.triu(inner @ inner.T, 1) >= 0.99).sum())
    assert pairs == int((found["kind"] == "near").sum()) == 0


def test_find_duplicates__lists_no_pair_twice(found):
    pairs = [frozenset(pair) for pair in found[["image_id_a", "image_id_b"]].to_numpy().tolist()]
    assert len(set(pairs)) == len(pairs)
    assert all(len(pair) == 2 for pair in pairs)


def test_find_duplicates__finds_planted_copies_and_nothing_else(tmp_path):
    images = np.load(PNEUMONIA)["test_images"][:400]
    rng = np.random.default_rng(0)
    planted = {}
    for i, image in enumerate(images):
        write_png(tmp_path / "sources", f"image{i:04}.png", image)
    for i in range(0, 400, 8):
        dy, dx = (int(step) for step in rng.integers(-1, 2, 2))
        copy = rewindowed(moved(images[i], dy, dx), rng.uniform(0.75, 1.0), rng.uniform(0, 20))
        write_png(tmp_path / "sources", f"planted{i:04}.png", copy)
        planted[i] = copy
    cohort = index(tmp_path / "sources", tmp_path / "cohort")
    found = find_duplicates(build_store(cohort, workers=1), cohort)
    names = {
        image_id: cohort.locators(image_id)[0].path.rpartition("/")[2]
        for image_id in cohort.table["image_id"]
    }
    listed = found[["image_id_a", "image_id_b"]].to_numpy().tolist()
    pairs = {tuple(sorted((names[a], names[b]))) for a, b in listed}
    expected = {(f"image{i:04}.png", f"planted{i:04}.png") for i in planted}
    assert len(pairs & expected) >= 0.96 * len(expected)
    # Two real copies may stand in the set itself; a wrong pair would have to be planted by us.
    wrong = {pair for pair in pairs - expected if "planted" in "".join(pair)}
    assert not wrong
    assert (found["correlation"] >= 0.99).all()


def test_find_duplicates__finds_a_shifted_and_rewindowed_radiograph_of_real_size(tmp_path):
    base = cv2.resize(np.load(PNEUMONIA)["test_images"][0], (420, 400)).astype(np.float32)
    image = np.clip(base * 200 + texture((400, 420), 0, 4000), 0, 65535).astype(np.uint16)
    write_png(tmp_path / "sources", "image.png", image)
    copy = rewindowed(moved(image, 7, -11), 0.5, 900)
    write_png(tmp_path / "sources", "copy.png", copy)
    write_png(tmp_path / "sources", "other.png", texture((400, 420), 5))
    cohort = index(tmp_path / "sources", tmp_path / "cohort")
    found = find_duplicates(build_store(cohort, workers=1), cohort)
    assert found["kind"].tolist() == ["near"]
    names = {cohort.locators(i)[0].path[-9:] for i in found[["image_id_a", "image_id_b"]].iloc[0]}
    assert all(name.endswith(("image.png", "copy.png")) for name in names)


def test_find_duplicates__between_two_cohorts(tmp_path):
    images = np.load(PNEUMONIA)["test_images"]
    parts = {"first": images[:40], "second": images[30:60]}
    opened = {}
    for name, part in parts.items():
        for i, image in enumerate(part):
            write_png(tmp_path / name, f"{i}.png", image)
        cohort = index(tmp_path / name, tmp_path / f"{name}_cohort")
        opened[name] = build_store(cohort, workers=1), cohort
    found = find_duplicates(*opened["first"], against=opened["second"])
    assert len(found) == 10
    assert set(found["kind"]) == {"exact"}
    assert set(found["image_id_a"]) <= set(opened["first"][1].table["image_id"])


def test_find_duplicates__lists_many_equal_images_without_all_pairs(tmp_path):
    for i in range(30):
        write_png(tmp_path / "sources", f"{i}.png", texture((40, 40), 0))
    cohort = index(tmp_path / "sources", tmp_path / "cohort")
    found = find_duplicates(build_store(cohort, workers=1), cohort)
    assert len(found) == 29


def test_correlation__is_that_of_the_common_part():
    image = texture((60, 50), 0).astype(np.float32)
    copy = 3 * moved(image, 2, -3) + 7
    assert correlation(image, copy) == pytest.approx(1.0, abs=1e-4)
    other = texture((60, 50), 9).astype(np.float32)
    inner = [
        np.corrcoef(image[5:-5, 5:-5].ravel(), other[5 + y : 55 + y, 5 + x : 45 + x].ravel())[0, 1]
        for y in range(-5, 6)
        for x in range(-5, 6)
    ]
    assert correlation(image, other) == pytest.approx(max(inner), abs=1e-4)


def test_correlation__of_images_of_other_proportions_is_zero():
    image = texture((60, 50), 0).astype(np.float32)
    assert correlation(image, image[:40]) == 0.0


def flipped(hashes, count, rng):
    """Flip `count` different bits of each hash."""
    out = hashes.copy()
    for i in range(len(out)):
        for bit in rng.choice(64, count, replace=False):
            out[i] ^= np.uint64(1) << np.uint64(bit)
    return out


def test_hash_index__finds_all_neighbours_within_3_bits_and_only_true_ones():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**64, 50_000, dtype=np.uint64)
    probes = flipped(base[:500], 3, rng)
    query, match = HashIndex(base).within(probes[:, None], RADIUS)
    assert set(zip(range(500), range(500), strict=True)) <= set(zip(query, match, strict=True))
    assert (np.bitwise_count(base[match] ^ probes[query]) <= RADIUS).all()
    every = np.bitwise_count(base[None] ^ probes[:50, None]) <= 3
    assert set(zip(*np.nonzero(every), strict=True)) <= set(zip(query, match, strict=True))


def test_hash_index__stays_small_when_all_hashes_are_alike():
    rng = np.random.default_rng(0)
    alike = np.uint64(0xABCD) << np.uint64(48)
    base = alike | rng.integers(0, 2**48, 60_000, dtype=np.uint64)
    index = HashIndex(base)
    query, match = index.within(base[:2000, None], 0)
    assert (query == match).sum() == 2000
    assert len(query) == 2000
    assert index.cut == 0
