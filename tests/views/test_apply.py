"""The CPU kernel: quality, identity, geometry, borders, grey values by hand."""

import importlib.resources
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from scoutview.base.errors import ConfigError, DataError
from scoutview.base.randomness import VIEWS, generator
from scoutview.data.pipeline import ViewPipeline
from scoutview.views.apply import Pyramid, apply, halve
from scoutview.views.draw import ViewParams, draw, replay
from scoutview.views.geometry import bounding_box, pyramid_level
from scoutview.views.noise import noise, quantiles
from scoutview.views.pipeline import Views
from scoutview.views.policy import Augment, CutOut, EvalView, Intensity, MultiCrop, TwoCrops

ASSETS = Path(__file__).parents[1] / "assets"
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
LIMIT = {np.uint8: 255, np.uint16: 65535}
WILD = Augment(
    flip_horizontal=0.5,
    flip_vertical=0.5,
    rotation=40,
    intensity=Intensity(
        brightness=0.8,
        contrast=0.8,
        gamma=(0.5, 2.0),
        gamma_probability=0.5,
        blur_probability=0.5,
        noise_sigma=(0.0, 0.2),
        noise_probability=0.5,
        solarise_probability=0.3,
    ),
    cut_out=CutOut(holes=(1, 3)),
)


@pytest.fixture(scope="module")
def radiographs():
    """Sixteen real chest radiographs side by side, enlarged to 512 x 512, with film grain."""
    file = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(file) as path, np.load(path) as arrays:
        tiles = arrays["train_images"][:16].reshape(4, 4, 28, 28)
    mosaic = tiles.swapaxes(1, 2).reshape(112, 112).astype(np.float32) * 257
    large = cv2.resize(mosaic, (512, 512), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 600, large.shape)
    return np.clip(large + grain, 0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def chest():
    """A CR chest of 1955 x 1841 pixels, 16 bit, windowed to its 0.5 and 99.5 percentiles."""
    dataset = pydicom.dcmread(ASSETS / "dicom_zoo" / "files" / "RG1_J2KI.dcm")
    stored = dataset.pixel_array.astype(np.float64)
    low, high = np.percentile(stored, [0.5, 99.5])
    # MONOCHROME1: large values are dark.
    return (np.clip((high - stored) / (high - low), 0, 1) * 65535).astype(np.uint16)


def random_image(shape, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, LIMIT[dtype] + 1, shape, dtype=dtype)


def smooth_image(shape, dtype=np.uint16, seed=0):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    field = (field - field.min()) / np.ptp(field)
    return (field * LIMIT[dtype]).astype(dtype)


def psnr(view, reference):
    error = (view.astype(np.float64) - reference) / 65535
    return -10 * np.log10(np.mean(error**2) + 1e-20)


def centre_crop_against_antialiased_resize(image, length, size):
    """PSNR in dB against torchvision's way of resizing (triangle filter as wide as the zoom)."""
    top, left = ((n - length) // 2 for n in image.shape)
    zoom = length / size
    rows = ((zoom, 0.0, top + zoom / 2 - 0.5), (0.0, zoom, left + zoom / 2 - 0.5))
    crop = image[top : top + length, left : left + length].astype(np.float32)
    reference = F.interpolate(
        torch.from_numpy(crop)[None, None], size=(size, size), mode="bilinear", antialias=True
    )[0, 0].numpy()
    edge = max(1, round(1 / zoom))  # where the reference does not see beyond the crop
    inner = (slice(edge, -edge),) * 2
    return psnr(apply(image, ViewParams(rows, (size, size)))[0][inner], reference[inner])


@pytest.mark.parametrize("size", [224, 96])
@pytest.mark.parametrize("length", [20, 64, 100, 150, 224, 300, 360, 400, 448, 512])
def test_quality__at_least_40_db_against_antialiased_resize(radiographs, size, length):
    assert centre_crop_against_antialiased_resize(radiographs, length, size) >= 40


@pytest.mark.parametrize("size", [224, 96])
@pytest.mark.parametrize("length", [64, 200, 350, 500, 720, 1000, 1300, 1500, 1841])
def test_quality__at_least_40_db_on_a_full_size_chest_radiograph(chest, size, length):
    assert centre_crop_against_antialiased_resize(chest, length, size) >= 40


@pytest.mark.parametrize("zoom", [1.3, 1.7, 2.4, 3.1])
def test_quality__of_turned_views_at_least_40_db_against_many_samples(radiographs, zoom):
    """Reference: the mean of 8 x 8 bilinear samples inside every pixel of the view."""
    size, angle = 96, np.deg2rad(17)
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = 256 - turn @ np.full(2, (size - 1) / 2)
    params = ViewParams(
        tuple((*r, o) for r, o in zip(turn.tolist(), offset, strict=True)), (size, size)
    )
    fine = np.stack(np.meshgrid(*[(np.arange(size * 8) + 0.5) / 8 - 0.5] * 2, indexing="ij"))
    where = np.tensordot(turn, fine, 1) + offset[:, None, None]
    dense = ndimage.map_coordinates(radiographs.astype(np.float64), where, order=1, mode="nearest")
    reference = dense.reshape(size, 8, size, 8).mean((1, 3))
    assert psnr(apply(radiographs, params)[0], reference) >= 40


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(28, 28), (31, 45), (33, 20, 3)])
def test_identity__returns_the_image_bit_by_bit(dtype, shape):
    image = random_image(shape, dtype)
    for policy in (
        EvalView(size=shape[:2]),
        TwoCrops(size=shape[:2], scale=(1, 1), ratio=(1, 1)),
    ):
        params = draw(policy, shape[:2], generator(0, VIEWS, 0, 0))[0]
        expected = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
        np.testing.assert_array_equal(apply(image, params), expected)


def test_quarter_turns_and_flips__permute_pixels_exactly():
    image = random_image((21, 21))
    flipped = ViewParams(((1.0, 0.0, 0.0), (0.0, -1.0, 20.0)), (21, 21))
    np.testing.assert_array_equal(apply(image, flipped)[0], image[:, ::-1])
    turned = ViewParams(((0.0, 1.0, 0.0), (-1.0, 0.0, 20.0)), (21, 21))
    np.testing.assert_array_equal(apply(image, turned)[0], np.rot90(image))


@pytest.mark.parametrize("shape", [(200, 160), (61, 83)])
def test_geometry__equals_where_the_pixels_came_from(shape):
    """Views of images whose values are their own coordinates."""
    rows, columns = (np.indices(shape) * 300).astype(np.uint16)
    augment = Augment(flip_horizontal=0.5, flip_vertical=0.5, rotation=30, border="edge")
    policy = MultiCrop(sizes=(40, 17), scales=((0.3, 0.6), (0.02, 0.2)), augment=(augment,))
    views = Views(policy)
    for key in range(12):
        for params in views.draw(shape, generator(0, VIEWS, 0, key)):
            affine = views.geometry(params)
            assert affine.shape == (2, 3)
            assert affine.dtype == np.float32
            where = np.tensordot(affine[:, :2], np.indices(params.size), 1)
            where += affine[:, 2][:, None, None]
            # Coordinates clipped at the border are not linear there.
            low, high = np.array([1.5, 1.5]), np.array(shape) - 2.5
            inner = ((where > low[:, None, None]) & (where < high[:, None, None])).all(0)
            assert inner.mean() > 0.6
            seen = np.stack([apply(rows, params)[0], apply(columns, params)[0]]) / 300
            assert np.abs(seen - where)[:, inner].max() < 0.01


def test_affine__matches_scipy_where_nothing_is_shrunk():
    image = smooth_image((80, 90))
    for params in draw(
        MultiCrop(
            sizes=(64, 50), scales=((0.2, 0.5), (0.05, 0.3)), augment=(Augment(rotation=20),)
        ),
        image.shape,
        generator(0, VIEWS, 0, 4),
    ):
        affine = np.array(params.affine)
        assert pyramid_level(params.affine) == 0
        reference = ndimage.affine_transform(
            image.astype(np.float64), affine[:, :2], affine[:, 2], params.size, order=1
        )
        inner = (slice(2, -2),) * 2
        assert np.abs(apply(image, params)[0].astype(float) - reference)[inner].max() < 4


def test_halve__averages_blocks_and_repeats_odd_edges():
    image = random_image((5, 7), np.uint16)
    padded = np.pad(image, ((0, 1), (0, 1)), mode="edge").astype(np.float64)
    expected = padded.reshape(3, 2, 4, 2).mean((1, 3))
    assert np.abs(halve(image) - expected).max() <= 0.5


def test_pyramid_level__grows_by_octaves():
    levels = [
        pyramid_level(((z, 0.0, 0.0), (0.0, z, 0.0))) for z in (0.1, 1, 1.6, 1.8, 3.3, 3.5, 8)
    ]
    assert levels == [0, 0, 0, 1, 1, 2, 3]


def test_bounding_box__gives_the_same_views_bit_by_bit():
    image = smooth_image((301, 257))
    policy = MultiCrop(sizes=(48, 20), scales=((0.05, 0.6), (0.01, 0.1)), augment=(WILD,))
    smaller = 0
    for key in range(15):
        params = draw(policy, image.shape, generator(0, VIEWS, 0, key))
        for some in (params, params[:1], params[3:5]):
            start, stop = bounding_box(some, image.shape)
            smaller += (stop[0] - start[0]) * (stop[1] - start[1]) < 0.5 * image.size
            part = image[start[0] : stop[0], start[1] : stop[1]]
            for p in some:
                np.testing.assert_array_equal(apply(part, p, origin=start), apply(image, p))
    assert smaller > 5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_views__are_written_in_place_and_deterministic(dtype, channels):
    image = random_image((41, 57) if channels == 1 else (41, 57, 3), dtype)
    views = Views(MultiCrop(sizes=(32, 15), augment=(WILD,)))
    params = views.draw((41, 57), generator(0, VIEWS, 0, 1))
    batch = [np.full((4, channels, *size), 7, dtype) for size in views.sizes]
    views.apply(image, params, [place[2] for place in batch])
    for place, p in zip(batch, params, strict=True):
        assert (place[[0, 1, 3]] == 7).all()
        np.testing.assert_array_equal(place[2], apply(image.copy(), p))


def test_output__stays_in_range_when_everything_is_strong():
    """Wrapped integers would show as neighbours at both ends."""
    image = smooth_image((64, 64))
    flat = np.full_like(image, 65535)
    for key in range(20):
        for p in draw(TwoCrops(size=24, first=WILD), image.shape, generator(1, VIEWS, 0, key)):
            plain = p._replace(noise=0.0, solarise=None, holes=(), border="edge", contrast=1.0)
            bright = apply(flat, plain._replace(brightness=1.7, gamma=1.0))
            assert bright.min() == 65535
            dark = apply(image, plain._replace(brightness=0.0))
            assert dark.max() == 0
            assert apply(image, p).dtype == np.uint16


def test_brightness_contrast_gamma__as_written_by_hand():
    image = smooth_image((30, 30))
    x = image / 65535.0
    p = ViewParams(IDENTITY, (30, 30), brightness=0.9, contrast=1.2, gamma=1.3)
    expected = np.clip(0.9 * (1.2 * x + (1 - 1.2) * x.mean()), 0, 1) ** 1.3
    assert np.abs(apply(image, p)[0] / 65535.0 - expected).max() < 2e-5


def test_solarise__inverts_above_the_threshold():
    image = smooth_image((30, 30))
    view = apply(image, ViewParams(IDENTITY, (30, 30), solarise=0.5))[0]
    np.testing.assert_allclose(view, np.where(image >= 32768, 65535 - image, image), atol=1)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur__equals_scipys_truncated_gaussian(sigma):
    image = random_image((40, 33))
    radius = int(np.ceil(3 * sigma))
    expected = ndimage.gaussian_filter(image.astype(float), sigma, mode="mirror", radius=radius)
    view = apply(image, ViewParams(IDENTITY, (40, 33), blur=sigma))[0]
    assert np.abs(view - expected).max() < 1


def test_blur__works_on_views_smaller_than_its_reach():
    view = apply(random_image((4, 5)), ViewParams(IDENTITY, (4, 5), blur=2.0))
    assert view.shape == (1, 4, 5)


def test_noise__is_normal_addressed_and_scaled():
    a, b = noise((1, 200, 200), 5), noise((1, 200, 200), 6)
    assert abs(a.mean()) < 0.02
    assert a.std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(a[0, :, 1:].ravel(), a[0, :, :-1].ravel())[0, 1]) < 0.02
    np.testing.assert_array_equal(a, noise((1, 200, 200), 5))
    assert quantiles().std() == pytest.approx(1, abs=1e-6)
    grey = np.full((200, 200), 32768, np.uint16)
    view = apply(grey, ViewParams(IDENTITY, (200, 200), noise=0.1, noise_seed=5))[0]
    np.testing.assert_allclose(view / 65535 - grey / 65535, 0.1 * a[0], atol=2e-5)


def test_holes__are_painted_last():
    image = smooth_image((20, 20))
    box = ((2, 6), (3, 9))
    p = ViewParams(IDENTITY, (20, 20), brightness=0.5, holes=(box,), fill_mean=False)
    view = apply(image, p)[0]
    assert (view[2:6, 3:9] == 0).all()
    rest = np.ones((20, 20), bool)
    rest[2:6, 3:9] = False
    np.testing.assert_allclose(view[rest], image[rest] * 0.5, atol=1)
    filled = apply(image, p._replace(fill_mean=True))[0]
    assert filled[3, 4] == pytest.approx(image.mean() / 2, abs=2)


def test_border__pads_with_black_and_keeps_the_edge_bright():
    image = np.full((20, 40), 60000, np.uint16)
    (params,) = draw(EvalView(size=80, fit="pad"), (20, 40), generator(0, VIEWS, 0, 0))
    view = apply(image, params)[0]
    assert (view[20:60] == 60000).all()
    assert (view[:20] == 0).all()
    assert (view[60:] == 0).all()


@pytest.mark.parametrize(("border", "corner"), [("zero", 0), ("edge", 60000), ("reflect", 60000)])
def test_border__of_turned_views_is_the_one_asked_for(border, corner):
    image = np.full((50, 50), 60000, np.uint16)
    crops = TwoCrops(size=50, scale=(1, 1), ratio=(1, 1), first=Augment(rotation=45, border=border))
    drawn = [draw(crops, (50, 50), generator(0, VIEWS, 0, key))[0] for key in range(8)]
    widest = max(drawn, key=lambda p: abs(p.affine[0][1]))
    view = apply(image, widest)[0]
    assert view[0, 0] == corner
    assert view[25, 25] == 60000


def test_mirrored_border__equals_numpys():
    image = random_image((12, 14))
    shifted = ViewParams(((1.0, 0.0, -5.0), (0.0, 1.0, -4.0)), (22, 22), border="reflect")
    expected = np.pad(image, ((5, 5), (4, 4)), mode="symmetric")
    np.testing.assert_array_equal(apply(image, shifted)[0], expected)


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((10, 10), np.float32), "uint8 or uint16"),
        (np.zeros((10, 10, 10), np.uint8), "use torch_apply"),
        (np.zeros((0, 10), np.uint8), "got \\(0, 10\\)"),
    ],
)
def test_apply__refuses_other_images(image, word):
    with pytest.raises(DataError, match=word):
        Pyramid(image)


def test_apply__refuses_a_place_of_another_shape():
    with pytest.raises(DataError, match="needs a place of shape"):
        apply(random_image((9, 9)), ViewParams(IDENTITY, (9, 9)), np.empty((9, 9), np.uint16))


def test_pipeline__refuses_scattered_sizes():
    scattered = MultiCrop(counts=(1, 1, 1), sizes=(32, 16, 32), scales=((0.5, 1.0),) * 3)
    with pytest.raises(ConfigError, match="stand together"):
        Views(scattered)


def test_pipeline__is_what_the_loader_asks_for():
    """Typed as the loader's protocol, it makes whole batches without a further argument."""
    pipeline: ViewPipeline = Views(MultiCrop(sizes=(32, 15), augment=(WILD,)))
    image = random_image((50, 60))
    params = pipeline.draw((50, 60), generator(0, VIEWS, 0, 1))
    out = [np.zeros((1, *size), np.uint16) for size in pipeline.sizes]
    pipeline.apply(image, params, out, (0, 0))
    assert all(place.any() for place in out)
    assert all(pipeline.geometry(p).shape == (2, 3) for p in params)


def test_replay__makes_the_pixels_of_training_again():
    """One view from (seed, epoch, image key, view) and the stored image, nothing else."""
    views = Views(MultiCrop(sizes=(32, 15), augment=(WILD,)))
    image = random_image((50, 60))
    drawn = views.draw((50, 60), generator(9, VIEWS, 4, 12345))
    out = [np.zeros((1, *size), np.uint16) for size in views.sizes]
    start, stop = views.bounding_box(drawn, (50, 60))
    views.apply(image[start[0] : stop[0], start[1] : stop[1]], drawn, out, start)
    again = replay(views.policy, (50, 60), seed=9, epoch=4, image_key=12345, view=5)
    np.testing.assert_array_equal(apply(image, again), out[5])


def test_apply__refuses_a_part_that_begins_inside_a_block():
    params = ViewParams(((4.0, 0.0, 1.5), (0.0, 4.0, 1.5)), (8, 8))
    with pytest.raises(DataError, match="multiple of 4 pixels"):
        apply(random_image((40, 40)), params, origin=(4, 6))
