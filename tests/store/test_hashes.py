import cv2
import numpy as np
import pytest
from scipy.fft import dctn
from tests.store.conftest import PNEUMONIA, texture

from scoutview.store.hashes import (
    FREQUENCIES,
    MARGIN,
    SIDE,
    checksum,
    content_hash,
    perceptual_hash,
    shifted_hashes,
    small_image,
)


def bits(value):
    return (int(value) >> np.arange(64, dtype=object)) & 1


@pytest.fixture(scope="module")
def radiographs():
    return np.load(PNEUMONIA)["test_images"][:100]


def test_content_hash__sees_every_bit_the_shape_and_the_type():
    pixels = texture((30, 20), 0)
    changed = pixels.copy()
    changed[-1, -1] ^= 1
    hashes = {
        content_hash(pixels),
        content_hash(changed),
        content_hash(pixels.reshape(20, 30)),
        content_hash(pixels.view(np.int16)),
        content_hash(pixels.view(np.uint8)),
    }
    assert len(hashes) == 5
    assert content_hash(pixels) == content_hash(np.asfortranarray(pixels))


def test_checksum__is_sha256_over_the_crc_of_blocks():
    import hashlib
    import zlib

    data = texture((100, 200), 1).tobytes()
    crcs = [zlib.crc32(data[i : i + 16384]) for i in range(0, len(data), 16384)]
    head = len(data).to_bytes(8, "little")
    by_hand = hashlib.sha256(head + b"".join(c.to_bytes(4, "little") for c in crcs)).digest()
    assert checksum(data) == by_hand


def test_frequencies__are_64_different_waves_along_both_axes():
    assert len(set(FREQUENCIES)) == 64
    assert min(min(pair) for pair in FREQUENCIES) == 1


def test_perceptual_hash__is_the_sign_of_the_cosine_transform(radiographs):
    small = small_image(radiographs[0])
    inner = small[MARGIN:-MARGIN, MARGIN:-MARGIN].astype(float)
    spectrum = dctn(inner, type=2)
    expected = [int(spectrum[v, u] > 0) for v, u in FREQUENCIES]
    assert bits(perceptual_hash(small)).tolist() == expected


def test_perceptual_hash__does_not_change_under_an_affine_change_of_intensity(radiographs):
    for image in radiographs[:20].astype(np.float32):
        first = perceptual_hash(small_image(image))
        second = perceptual_hash(small_image(image * 3.7 - 250))
        assert bin(first ^ second).count("1") <= 1


def test_perceptual_hash__is_zero_for_an_image_of_one_value():
    assert perceptual_hash(small_image(np.full((50, 60), 7, np.uint16))) == 0


def test_small_image__shows_monochrome1_as_it_is_displayed(radiographs):
    upright = small_image(radiographs[1])
    turned = small_image(255 - radiographs[1], inverted=True)
    assert np.abs(upright.astype(int) - turned).max() <= 3  # OpenCV rounds 8-bit means


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_small_image__agrees_with_area_means(dtype):
    pixels = (texture((128, 96), 3) // 300).astype(dtype)
    means = pixels.reshape(SIDE, 4, SIDE, 3).mean(axis=(1, 3), dtype=float)
    ranked = np.sort(means, axis=None)
    low, high = ranked[round(0.02 * 1023)], ranked[round(0.98 * 1023)]
    expected = 255 * np.clip((means - low) / (high - low), 0, 1)
    assert np.abs(small_image(pixels) - expected).max() <= 2.5


def test_shifted_hashes__equal_the_hash_of_the_shifted_image(radiographs):
    small = np.stack([small_image(image) for image in radiographs[:10]])
    shifted = shifted_hashes(small)
    steps = range(-MARGIN, MARGIN + 1)
    for number, (dy, dx) in enumerate((dy, dx) for dy in steps for dx in steps):
        moved = np.roll(small, (-dy, -dx), axis=(1, 2))
        assert shifted[:, number].tolist() == [perceptual_hash(image) for image in moved]


def test_shifted_hashes__find_a_shifted_and_rewindowed_copy_within_8_bits(radiographs):
    rng = np.random.default_rng(0)
    found = 0
    for image in radiographs:
        dy, dx = rng.integers(-1, 2, 2)
        move = np.float32([[1, 0, dx], [0, 1, dy]])
        copy = cv2.warpAffine(image, move, (28, 28), borderMode=cv2.BORDER_REPLICATE)
        copy = np.clip(copy * rng.uniform(0.7, 1.1) + rng.uniform(-10, 10), 0, 255).round()
        probes = shifted_hashes(small_image(copy)[None])[0]
        plain = np.uint64(perceptual_hash(small_image(image)))
        found += bool((np.bitwise_count(probes ^ plain) <= 8).any())
    assert found >= 97
