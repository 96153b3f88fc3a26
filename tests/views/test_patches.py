"""A crop cut into patches: where they lie, their order, and both kernels on them."""

import numpy as np
import pytest
import torch
from scipy import stats

from scoutview.base.errors import ConfigError
from scoutview.base.randomness import VIEWS, generator
from scoutview.views.apply import apply
from scoutview.views.defaults import for_modality
from scoutview.views.draw import draw
from scoutview.views.pipeline import Views
from scoutview.views.policy import Augment, CropsAndPatches, Intensity, TwoCrops
from scoutview.views.presets import patches_for_small_images
from scoutview.views.torch_apply import apply_batch

POLICY = CropsAndPatches(size=40, cell_size=17, patch_size=13)
TURNED = Augment(
    flip_horizontal=0.5,
    rotation=30,
    intensity=Intensity(brightness=0.4, contrast=0.4, blur_probability=0.5),
)


def patches_of(policy, shape=(120, 150), key=0):
    return draw(policy, shape, generator(0, VIEWS, 0, key))[policy.crops :]


def cells_of(patches, shape, size, grid=3):
    """Cell of each patch, from the middle of the patches alone (straight crops)."""
    middles = np.array(
        [[row[i] * (size - 1) / 2 + row[-1] for i, row in enumerate(p.affine)] for p in patches]
    )
    order = np.argsort(np.argsort(middles, axis=0), axis=0) // grid
    return [int(row * grid + column) for row, column in order]


def test_patches__show_every_cell_once_and_lie_within_it():
    for key in range(20):
        patches = patches_of(POLICY, key=key)
        assert sorted(cells_of(patches, (120, 150), 13)) == list(range(9))
        for axis in (0, 1):
            zoom = patches[0].affine[axis][axis]
            starts = sorted(p.affine[axis][2] - 0.5 * zoom + 0.5 for p in patches)  # left edges
            for place in range(3):
                inside = starts[3 * place : 3 * place + 3]
                assert inside[-1] - inside[0] <= (17 - 13) * zoom + 1e-6
            # neighbouring cells begin one cell apart, up to the freedom of 4 pixels
            assert abs(starts[3] - starts[0] - 17 * zoom) <= 4 * zoom + 1e-6


def test_patches__share_the_crop_and_stay_in_the_image():
    shape = (120, 150)
    areas = []
    for key in range(300):
        patches = patches_of(POLICY, shape, key)
        zooms = {tuple(row[i] for i, row in enumerate(p.affine)) for p in patches}
        assert len(zooms) == 1
        for p in patches:
            for row, i, n in zip(p.affine, (0, 1), shape, strict=True):
                assert row[2] >= -0.5 + 0.5 * row[i] - 1e-6
                assert row[2] + 12 * row[i] <= n - 0.5 - 0.5 * row[i] + 1e-6
        areas.append(np.prod(zooms.pop()) * 51 * 51 / (120 * 150))
    # the crop that is cut takes 0.6 to 1 of the image; a large one of other proportions is smaller
    assert min(areas) > 0.5
    assert max(areas) < 1
    assert np.mean(areas) == pytest.approx(0.78, abs=0.04)


def test_patches__come_in_every_order_equally_often():
    first = [cells_of(patches_of(POLICY, key=key), (120, 150), 13)[0] for key in range(900)]
    counts = np.bincount(first, minlength=9)
    assert stats.chisquare(counts).pvalue > 1e-3
    pairs = [tuple(cells_of(patches_of(POLICY, key=key), (120, 150), 13)[:2]) for key in range(200)]
    assert len(set(pairs)) > 60  # of 72


def test_place_in_the_cell__is_uniform_and_apart_from_the_crops_place():
    places, crops = [], []
    for key in range(400):
        patches = patches_of(POLICY.model_copy(update={"patch_scale": (0.6, 0.6)}), key=key)
        zoom = patches[0].affine[0][0]
        cell = cells_of(patches, (120, 150), 13)[0] // 3
        top = patches[0].affine[0][2] - 0.5 * zoom + 0.5 - cell * 17 * zoom
        lowest = min(p.affine[0][2] for p in patches) - 0.5 * zoom + 0.5
        crops.append(lowest)
        places.append((top - lowest) / zoom)  # 0 to 4, less what the topmost patch has itself
    assert min(places) >= -4
    assert max(places) <= 4 + 1e-6
    assert abs(np.corrcoef(places, crops)[0, 1]) < 0.2


def test_patches__move_no_crop():
    crops = TwoCrops(size=40, first=TURNED)
    policy = CropsAndPatches(crops=2, size=40, first=TURNED, cell_size=17, patch_size=13)
    both = [draw(p, (120, 150), generator(0, VIEWS, 0, 3))[:2] for p in (crops, policy)]
    assert both[0] == both[1]


def test_turned_patches__turn_with_their_crop_and_change_each_by_itself():
    policy = CropsAndPatches(size=40, cell_size=17, patch_size=13, first=TURNED)
    patches = patches_of(policy, key=4)
    matrices = {tuple(row[:-1] for row in p.affine) for p in patches}
    assert len(matrices) == 1
    assert len({p.brightness for p in patches}) > 3


def test_kernels__give_the_same_patches():
    rng = np.random.default_rng(0)
    image = (rng.random((30, 38)).repeat(4, 0).repeat(4, 1) * 65535).astype(np.uint16)
    policy = CropsAndPatches(size=40, cell_size=17, patch_size=13, first=TURNED)
    patches = patches_of(policy, image.shape, key=1)
    batch = torch.from_numpy(image.astype(np.float32) / 65535)[None, None].expand(9, -1, -1, -1)
    fast = apply_batch(batch, patches)[:, 0].numpy()
    for view, params in zip(fast, patches, strict=True):
        np.testing.assert_allclose(apply(image, params)[0] / 65535, view, atol=2e-3)


def test_patches_of_a_ramp__show_where_they_are():
    """On an image whose value is its column, each pixel says which column it shows."""
    ramp = np.tile(np.arange(150, dtype=np.uint16) * 400, (120, 1))
    patches = patches_of(POLICY, ramp.shape, key=2)
    for p in patches:
        columns = apply(ramp, p)[0].astype(float) / 400
        expected = p.affine[1][2] + p.affine[1][1] * np.arange(13)
        np.testing.assert_allclose(columns[6], expected, atol=1.0)


def test_pipeline__takes_a_view_of_one_size_and_nine_of_another():
    views = Views(CropsAndPatches())
    assert views.sizes == ((224, 224), *[(64, 64)] * 9)
    params = views.draw((300, 260), generator(0, VIEWS, 0, 0))
    assert len(params) == CropsAndPatches().n_views == 10
    assert views.geometry(params[5]).shape == (2, 3)


def test_volumes__are_cut_along_three_axes():
    policy = CropsAndPatches(size=16, grid=2, cell_size=8, patch_size=6)
    params = draw(policy, (30, 40, 50), generator(0, VIEWS, 0, 0))
    assert [p.size for p in params] == [(16, 16, 16), *[(6, 6, 6)] * 8]
    offsets = np.array([[row[-1] for row in p.affine] for p in params[1:]])
    halves = (offsets > np.median(offsets, axis=0)).astype(int)
    assert len({tuple(h) for h in halves}) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 90}, "patch_size must be at most cell_size"),
        ({"second": {}}, "set crops to 2"),
        ({"patch_scale": (0.0, 1.0)}, "scale must rise"),
    ],
)
def test_policy__refuses_what_cannot_be_cut(settings, message):
    with pytest.raises(ConfigError, match=message):
        CropsAndPatches.build(settings)


def test_safe_limits__hold_for_crops_and_patches():
    policy = CropsAndPatches(crops=2, first=TURNED, second=TURNED, patch=TURNED)
    safe = for_modality("CR", policy)
    for augment in (safe.first, safe.second, safe.patch):
        assert augment.flip_horizontal == 0
        assert augment.rotation == 15
        assert augment.intensity.brightness == 0.2
    assert for_modality("CR", CropsAndPatches(first=TURNED)).patch is None


def test_small_images__keep_the_patch_within_its_cell_and_large_enough_for_a_network():
    small = patches_for_small_images(CropsAndPatches(), 28)
    assert (small.size, small.patch_size, small.cell_size) == (28, 12, 16)
    medium = patches_for_small_images(CropsAndPatches(), 112)
    assert (medium.size, medium.patch_size, medium.cell_size) == (112, 32, 42)
    assert CropsAndPatches.build(small.model_dump()) == small
