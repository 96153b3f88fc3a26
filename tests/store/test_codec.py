import numpy as np
import pytest
from tests.store.conftest import texture

from scoutview.store.codec import decode, encode
from scoutview.store.rows import CHUNKED, LZ4, PIXEL_DTYPES, PRESENT, RAW, VOLUME, Record


def record(pixels, codec, length, volume, offset=0):
    space = 3 if volume else 2
    return Record(
        0, offset, length, 0, *pixels.shape[space - 2 : space], pixels.shape[0] if volume else 1,
        0, 0, PIXEL_DTYPES.index(str(pixels.dtype)), codec,
        pixels.shape[space] if pixels.ndim > space else 1, PRESENT | VOLUME * volume,
        1.0, 0.0, np.nan, np.nan,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", PIXEL_DTYPES)
@pytest.mark.parametrize("codec", ["raw", "lz4"])
@pytest.mark.parametrize(
    ("shape", "volume"),
    [((33, 21), False), ((33, 21, 3), False), ((7, 40, 50), True), ((1, 5, 4), True)],
)
def test_decode__gives_back_what_was_encoded(dtype, codec, shape, volume):
    pixels = np.ascontiguousarray(texture(shape, 0).astype(dtype))
    data, number = encode(pixels, codec, volume=volume)
    assert number == (RAW if codec == "raw" else CHUNKED if volume else LZ4)
    stored = b"x" * 64 + bytes(data)
    told = record(pixels, number, len(data), volume, offset=64)
    back = decode(stored, told)
    assert back.dtype == pixels.dtype
    np.testing.assert_array_equal(back, pixels)
    window = (slice(0, 4), slice(2, 4), slice(1, 3))[: 3 if volume else 2]
    np.testing.assert_array_equal(decode(stored, told, window), pixels[window])


def test_encode__cuts_a_large_image_into_chunks():
    pixels = texture((1500, 1600), 0)
    data, number = encode(pixels, "lz4", volume=False)
    assert number == CHUNKED
    told = record(pixels, number, len(data), False)
    window = (slice(700, 900), slice(1000, 1010))
    np.testing.assert_array_equal(decode(data, told, window), pixels[window])


def test_encode__makes_smooth_volumes_at_least_a_third_smaller():
    pixels = texture((32, 128, 128), 0, 2000).astype(np.int16)
    assert len(encode(pixels, "lz4", volume=True)[0]) < pixels.nbytes * 2 / 3
