"""Drawing: fixed slots, crop statistics, determinism, replay, geometry without pixels."""

import math

import numpy as np
import pytest
from scipy import stats

from scoutview.base.errors import ConfigError, DataError
from scoutview.base.randomness import VIEWS, generator
from scoutview.methods.dino import DINOConfig
from scoutview.views import draw as drawing
from scoutview.views.draw import draw, replay
from scoutview.views.policy import Augment, CutOut, EvalView, Intensity, MultiCrop, TwoCrops

EVERYTHING = Augment(
    flip_horizontal=0.5,
    flip_vertical=0.5,
    flip_depth=0.5,
    rotation=30,
    rotation_through=10,
    intensity=Intensity(
        brightness=0.4,
        contrast=0.4,
        gamma=(0.5, 2.0),
        gamma_probability=0.5,
        blur_probability=0.5,
        noise_probability=0.5,
        solarise_probability=0.2,
    ),
    cut_out=CutOut(holes=(1, 4)),
)


def rng(key=0, epoch=0):
    return generator(0, VIEWS, epoch, key)


def linear(params):
    return np.array(params.affine)[:, :-1]


def corners(params):
    """Corners of the crop in image coordinates counted from the image's corner."""
    affine, ndim = np.array(params.affine), len(params.size)
    ends = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in params.size])).reshape(ndim, -1)
    return affine[:, :-1] @ ends + affine[:, -1:] + 0.5


@pytest.mark.parametrize("shape", [(100, 130), (31, 45, 29)])
def test_draw__is_the_same_for_the_same_address(shape):
    policy = MultiCrop(sizes=(24, 12), augment=(EVERYTHING,))
    assert draw(policy, shape, rng(5)) == draw(policy, shape, rng(5))
    assert draw(policy, shape, rng(5)) != draw(policy, shape, rng(6))
    assert draw(policy, shape, rng(5)) != draw(policy, shape, rng(5, epoch=1))


def test_replay__gives_one_view_from_its_address_alone():
    policy = MultiCrop(sizes=(24, 12), augment=(EVERYTHING,))
    whole = draw(policy, (90, 80), generator(7, VIEWS, 3, 2**62 + 5))
    for view in range(policy.n_views):
        again = replay(policy, (90, 80), seed=7, epoch=3, image_key=2**62 + 5, view=view)
        assert again == whole[view]


def test_slots__switching_one_change_on_moves_no_other():
    plain = Augment(rotation=10, intensity=Intensity(brightness=0.2, contrast=0.2))
    more = plain.model_copy(update={"cut_out": CutOut(probability=1.0), "flip_vertical": 1.0})
    a = draw(TwoCrops(size=20, first=plain), (50, 60), rng())[0]
    b = draw(TwoCrops(size=20, first=more), (50, 60), rng())[0]
    assert (a.brightness, a.contrast) == (b.brightness, b.contrast)
    np.testing.assert_allclose(np.abs(linear(a)), np.abs(linear(b)))
    assert b.holes
    assert not a.holes


def test_slots__a_later_view_moves_no_earlier_one():
    few = MultiCrop(counts=(2, 2), sizes=(20, 10), augment=(EVERYTHING,))
    many = MultiCrop(counts=(2, 5), sizes=(20, 10), augment=(EVERYTHING,))
    assert draw(many, (50, 60), rng())[:4] == draw(few, (50, 60), rng())


def test_slots__do_not_overlap_and_fit_the_row():
    widths = {
        "ASPECT": 2,
        "POSITION": 3,
        "FLIP": 3,
        "TURN": 3,
        "CUT_BOX": 4 * 6,
        "PLACE": 3,
        "ENERGY": 8,
    }
    names = [
        name
        for name, value in vars(drawing).items()
        if name.isupper() and isinstance(value, int) and name not in ("SLOTS", "VIEWS")
        and not name.startswith("_")
    ]  # fmt: skip
    used = [
        slot
        for name in names
        for slot in range(getattr(drawing, name), getattr(drawing, name) + widths.get(name, 1))
    ]
    assert len(used) == len(set(used))
    assert sorted(used) == list(range(len(used)))
    assert max(used) < drawing.SLOTS


@pytest.mark.parametrize("shape", [(200, 200), (200, 180), (400, 401, 400)])
def test_crop__areas_and_positions_are_uniform(shape):
    policy = TwoCrops(size=32, scale=(0.2, 0.8))
    areas, places = [], []
    for key in range(600):
        for params in draw(policy, shape, rng(key)):
            extent = np.abs(np.diag(linear(params))) * 32
            areas.append(np.prod(extent) / np.prod(shape))
            free = shape[-1] - extent[-1]
            if free > 1e-6:
                places.append(corners(params).min(1)[-1] / free)
    assert stats.kstest(areas, stats.uniform(0.2, 0.6).cdf).pvalue > 0.01
    assert stats.kstest(places, stats.uniform().cdf).pvalue > 0.01


@pytest.mark.parametrize("shape", [(200, 200), (200, 90), (28, 28), (40, 44, 10)])
def test_crop__stays_inside_and_keeps_its_proportions(shape):
    policy = TwoCrops(size=32, scale=(0.05, 1.0))
    for key in range(300):
        for params in draw(policy, shape, rng(key)):
            assert (corners(params) > -1e-9).all()
            assert (corners(params).max(1) < np.array(shape) + 1e-9).all()
            zoom = np.diag(linear(params))
            spread = 4 / 3 if len(shape) == 2 else (4 / 3) ** 2
            assert zoom.max() / zoom.min() <= spread * (1 + 1e-9)


def test_crop__small_areas_have_log_uniform_ratios():
    policy = TwoCrops(size=32, scale=(0.1, 0.3))
    ratios = []
    for key in range(800):
        for params in draw(policy, (100, 100), rng(key)):
            height, width = np.diag(linear(params))
            ratios.append(math.log(width / height))
    bound = math.log(4 / 3)
    assert stats.kstest(ratios, stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


def test_crop__of_an_elongated_image_keeps_its_proportions():
    for params in draw(TwoCrops(size=32, scale=(1.0, 1.0)), (50, 400), rng()):
        height, width = np.diag(linear(params)) * 32
        assert height == pytest.approx(50)
        assert width <= 50 * 4 / 3 + 1e-9


def test_turned_crops__stay_inside_where_they_fit():
    policy = TwoCrops(size=32, scale=(0.1, 0.3), first=Augment(rotation=45))
    for key in range(200):
        for params in draw(policy, (100, 120), rng(key)):
            points = corners(params)
            assert (points > -1e-9).all()
            assert (points.max(1) < np.array([100, 120]) + 1e-9).all()


def test_turn__preserves_lengths_in_millimetres():
    spacing = (3.0, 1.0, 1.0)
    crops = TwoCrops(size=8, ratio=(1, 1), first=Augment(rotation=40, rotation_through=20))
    params = draw(crops, (64, 64, 64), rng(3), spacing=spacing)[0]
    straight = draw(TwoCrops(size=8, ratio=(1, 1)), (64, 64, 64), rng(3), spacing=spacing)[0]
    turn = linear(params) @ np.linalg.inv(linear(straight))
    physical = np.diag(spacing) @ turn @ np.diag(1 / np.array(spacing))
    np.testing.assert_allclose(physical @ physical.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(physical) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(40, 50), (20, 30, 40)])
def test_flips__happen_as_often_as_asked(shape):
    augment = Augment(flip_horizontal=0.3, flip_vertical=0.7, flip_depth=0.5)
    policy = TwoCrops(size=8, first=augment)
    signs = np.array(
        [
            np.sign(np.diag(linear(params)))
            for key in range(500)
            for params in draw(policy, shape, rng(key))
        ]
    )
    expected = [0.5, 0.7, 0.3][-len(shape) :]
    np.testing.assert_allclose((signs < 0).mean(0), expected, atol=0.06)


def test_intensity__frequencies_and_ranges_are_those_asked_for():
    drawn = [p for key in range(500) for p in draw(TwoCrops(first=EVERYTHING), (64, 64), rng(key))]
    blur = np.array([p.blur for p in drawn])
    assert (blur > 0).mean() == pytest.approx(0.5, abs=0.06)
    assert stats.kstest(blur[blur > 0], stats.uniform(0.1, 1.9).cdf).pvalue > 0.01
    bright = np.array([p.brightness for p in drawn])
    assert (bright != 1).mean() == pytest.approx(0.8, abs=0.05)
    assert stats.kstest(bright[bright != 1], stats.uniform(0.6, 0.8).cdf).pvalue > 0.01
    gamma = np.log([p.gamma for p in drawn if p.gamma != 1])
    assert stats.kstest(gamma, stats.uniform(-math.log(2), 2 * math.log(2)).cdf).pvalue > 0.01
    assert np.mean([p.solarise is not None for p in drawn]) == pytest.approx(0.2, abs=0.05)
    assert len({p.noise_seed for p in drawn}) == len(drawn)
    assert {len(p.holes) for p in drawn} == {0, 1, 2, 3, 4}
    for p in drawn:
        assert all(0 <= a < b <= 224 for box in p.holes for a, b in box)


def test_views__are_independent_of_each_other():
    pairs = [draw(TwoCrops(first=EVERYTHING), (64, 64), rng(key)) for key in range(400)]
    areas = [[abs(np.linalg.det(linear(p))) for p in pair] for pair in pairs]
    assert abs(stats.spearmanr(*np.transpose(areas)).statistic) < 0.12


def test_per_view_treatment__byol_blurs_the_first_view_always():
    first = Augment(intensity=Intensity(blur_probability=1.0))
    second = Augment(intensity=Intensity(solarise_probability=1.0))
    a, b = draw(TwoCrops(first=first, second=second), (64, 64), rng())
    assert a.blur > 0
    assert a.solarise is None
    assert b.blur == 0
    assert b.solarise == 0.5


@pytest.mark.parametrize(
    ("fit", "zoom"), [("pad", (2.0, 2.0)), ("crop", (1.0, 1.0)), ("stretch", (1.0, 2.0))]
)
def test_eval_view__fits_as_named(fit, zoom):
    (params,) = draw(EvalView(size=20, fit=fit), (20, 40), rng())
    np.testing.assert_allclose(np.diag(linear(params)), zoom)
    np.testing.assert_allclose(corners(params).mean(1), (10, 20))


def test_eval_view__of_the_images_own_size_is_the_identity():
    (params,) = draw(EvalView(size=28), (28, 28), rng())
    assert params.affine == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def test_multi_crop__treats_groups_and_views_as_told():
    light, strong = Augment(), Augment(rotation=5)
    specs = MultiCrop(counts=(1, 2), augment=(light, strong)).specs(2)
    assert [s.augment for s in specs] == [light, strong, strong]
    assert [s.size for s in specs] == [(224, 224), (96, 96), (96, 96)]
    each = (light, strong, light)
    assert [s.augment for s in MultiCrop(counts=(1, 2), augment=each).specs(2)] == list(each)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"counts": (2,)}, "one entry per group"),
        ({"counts": (2, 0)}, "at least 1"),
        ({"scales": ((0.5, 0.2), (0.1, 0.2))}, "scale must rise"),
        ({"sizes": (0, 96)}, "at least 1 pixel"),
        ({"augment": (Augment(),) * 4}, "augment must hold"),
    ],
)
def test_multi_crop__refuses_what_cannot_be(values, word):
    with pytest.raises(ConfigError, match=word):
        MultiCrop.build(values)


def test_draw__refuses_images_without_two_or_three_axes():
    with pytest.raises(DataError, match="2 or 3 spatial axes"):
        draw(TwoCrops(), (10, 10, 10, 10), rng())
    with pytest.raises(DataError, match="at least one pixel"):
        draw(TwoCrops(), (0, 10), rng())
    with pytest.raises(ConfigError, match="give one number or 3"):
        draw(TwoCrops(size=(8, 8)), (10, 10, 10), rng())


def test_draw__needs_no_global_generator():
    before = np.random.get_state()[1].copy()
    draw(MultiCrop(augment=(EVERYTHING,)), (64, 64), rng())
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_multi_crop__treatments_go_to_the_views_that_they_are_for():
    def turned(count, counts=(2, 3)):
        augment = tuple(Augment(rotation=float(i)) for i in range(count))
        policy = MultiCrop(counts=counts, augment=augment)
        return [spec.augment.rotation for spec in policy.specs(2)]

    assert turned(1) == [0, 0, 0, 0, 0]
    assert turned(2) == [0, 0, 1, 1, 1]
    assert turned(3) == [0, 1, 2, 2, 2]
    assert turned(5) == [0, 1, 2, 3, 4]
    assert turned(2, counts=(1, 1)) == [0, 1]


def test_dino__keeps_its_treatments_with_fewer_small_views():
    views = DINOConfig.build({"views": {"counts": [2, 4]}}).views
    blur = [spec.augment.intensity.blur_probability for spec in views.specs(2)]
    assert blur == [1.0, 0.1, *[0.5] * 4]
