import itertools

import numpy as np
import pytest
import torch
from tests.store.conftest import PNEUMONIA, index, texture, write_nifti, write_png

from scoutview.base.errors import ConfigError, DataError
from scoutview.base.randomness import VIEWS, generator
from scoutview.data.batch import Batch
from scoutview.data.loader import Loader, widen
from scoutview.data.sampler import GroupSampler, PermutationSampler
from scoutview.data.samples import DataConfig, Samples
from scoutview.store.build import StoreConfig, build_store
from scoutview.views.device import make_views
from scoutview.views.draw import draw
from scoutview.views.pipeline import Views
from scoutview.views.policy import Augment, EvalView, Intensity, MultiCrop, TwoCrops


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loader")


@pytest.fixture(scope="module")
def cohort(folder):
    for i in range(10):
        write_png(folder / "sources", f"image{i}.png", texture((300, 320), i))
    for i in range(2):
        pixels = texture((5, 40, 36), 20 + i, 3000).astype(np.int16)
        write_nifti(folder / "sources", f"volume{i}.nii", pixels)
    return index(folder / "sources", folder / "cohort")


@pytest.fixture(scope="module")
def samples(cohort):
    return Samples.of(build_store(cohort, workers=1), cohort, targets=np.arange(12))


POLICY = MultiCrop(counts=(2, 3), sizes=(32, 16), scales=((0.4, 1.0), (0.05, 0.4)))


def loader(samples, *, policy=POLICY, batch=6, rank=0, world=1, **settings):
    sampler = PermutationSampler(len(samples), batch, seed=1, rank=rank, world=world)
    settings = {"seed": 1, "rank": rank, "world": world} | settings
    return Loader(samples, Views(policy), sampler, sweep_views=Views(EvalView(size=24)), **settings)


def take(batches, count):
    got = list(itertools.islice(batches, count))
    batches.close()
    return got


def assert_equal(a: Batch, b: Batch):
    for name in ("rows", "image_keys", "groups", "targets"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    for name in ("views", "geometry"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True):
            assert x.dtype == y.dtype
            assert torch.equal(x, y)


@pytest.mark.parametrize(
    "settings", [{"threads": 1}, {"threads": 3, "prefetch": 1}, {"threads": 2}]
)
def test_batches__are_the_same_for_any_number_of_threads(samples, settings):
    expected = take(loader(samples, threads=0).batches(), 8)
    got = take(loader(samples, **settings).batches(), 8)
    for a, b in zip(expected, got, strict=True):
        assert_equal(a, b)


def test_batches__begin_at_any_step(samples):
    expected = take(loader(samples).batches(), 9)
    for a, b in zip(expected[5:], take(loader(samples).batches(5), 4), strict=True):
        assert_equal(a, b)


def test_batches__end_where_they_are_told_to(samples):
    got = list(loader(samples, threads=2).batches(3, 7))
    for a, b in zip(take(loader(samples).batches(3), 4), got, strict=True):
        assert_equal(a, b)


def test_batches__are_the_same_over_two_processes(samples):
    alone = take(loader(samples).batches(), 4)
    ranks = [take(loader(samples, rank=rank, world=2).batches(), 4) for rank in range(2)]
    for whole, first, second in zip(alone, *ranks, strict=True):
        for x, a, b in zip(whole.views, first.views, second.views, strict=True):
            assert torch.equal(x, torch.cat([a, b]))
        assert torch.equal(whole.rows, torch.cat([first.rows, second.rows]))


def test_batches__hold_the_views_that_the_address_gives(samples):
    pipeline = Views(POLICY)
    for step, batch in enumerate(take(loader(samples).batches(2), 3), start=2):
        epoch = step // (len(samples) // 6)
        for i, position in enumerate(batch.rows.tolist()):
            image, slices, records = samples.locate(np.array([position]))
            record, slice_index = records[0], int(slices[0])
            word = (slice_index + 1,) if slice_index >= 0 else ()
            random = generator(1, VIEWS, epoch, record.image_key, *word)
            whole = samples.image(record, slice_index, int(samples.rows[image[0]]), None)
            params = draw(POLICY, whole.shape, random)
            out = [np.empty((1, *size), np.uint16) for size in pipeline.sizes]
            pipeline.apply(whole, params, out)
            for view, geometry, expected, one in zip(
                batch.views, batch.geometry, out, params, strict=True
            ):
                np.testing.assert_array_equal(view[i].numpy(), expected)
                np.testing.assert_allclose(geometry[i].numpy(), one.affine, rtol=1e-6)


def test_batches__have_the_shapes_and_values_of_the_contract(samples):
    (batch,) = take(loader(samples).batches(), 1)
    assert [tuple(view.shape) for view in batch.views] == [(6, 1, 32, 32)] * 2 + [
        (6, 1, 16, 16)
    ] * 3
    assert {view.dtype for view in batch.views} == {torch.uint16}
    assert all(tuple(affine.shape) == (6, 2, 3) for affine in batch.geometry)
    image, _, records = samples.locate(batch.rows.numpy())
    assert batch.image_keys.tolist() == [record.image_key for record in records]
    assert batch.targets.tolist() == image.tolist()


MIXED = MultiCrop(
    counts=(2, 3),
    sizes=(32, 16),
    scales=((0.4, 1.0), (0.05, 0.4)),
    augment=(
        Augment(
            flip_horizontal=0.5,
            rotation=20,
            intensity=Intensity(brightness=0.3, contrast=0.3, blur_probability=0.5),
        ),
    ),
)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("policy", [POLICY, MIXED], ids=["crops", "mixed"])
def test_batches__with_views_on_the_device_are_those_of_the_cpu(samples, policy, threads):
    here = take(loader(samples, policy=policy).batches(1), 3)
    travelling = loader(samples, policy=policy, on_device=True, threads=threads)
    for expected, batch in zip(here, take(travelling.batches(1), 3), strict=True):
        assert batch.views == []
        assert sorted(itertools.chain(*batch.images.members)) == list(range(6))
        assert sum(len(stack) for stack in batch.images.stacks) == 6
        made = make_views(batch.to("cpu"))
        assert made.images is None
        assert [view.shape for view in made.views] == [view.shape for view in expected.views]
        for view, other in zip(made.views, expected.views, strict=True):
            assert view.dtype == torch.float32
            torch.testing.assert_close(view, other.float() / 65535, atol=5e-4, rtol=0)
        for x, y in zip(made.geometry, expected.geometry, strict=True):
            assert torch.equal(x, y)
        for name in ("rows", "image_keys", "groups", "targets"):
            assert torch.equal(getattr(made, name), getattr(expected, name))
        assert make_views(made) is made


def test_sweep__with_views_on_the_device_is_that_of_the_cpu(samples):
    here, there = (list(loader(samples, on_device=where).sweep()) for where in (False, True))
    for expected, batch in zip(here, map(make_views, there), strict=True):
        assert torch.equal(batch.rows, expected.rows)
        (view,), (other,) = batch.views, expected.views
        torch.testing.assert_close(view, other.float() / 65535, atol=5e-4, rtol=0)


def test_batches__with_views_on_the_device_may_be_in_colour(samples):
    colour = Samples(samples.store, samples.rows, DataConfig(channel="colour"))
    (expected,) = take(loader(colour).batches(), 1)
    (batch,) = take(loader(colour, on_device=True).batches(), 1)
    for view, other in zip(make_views(batch).views, expected.views, strict=True):
        assert view.shape == other.shape
        torch.testing.assert_close(view, other.float() / 65535, atol=5e-4, rtol=0)


def test_batches__that_are_kept_never_change(samples):
    kept = take(loader(samples, threads=2).batches(), 12)
    again = take(loader(samples, threads=0).batches(), 12)
    for a, b in zip(kept, again, strict=True):
        assert_equal(a, b)


def test_batches__use_memory_again_once_it_is_let_go(samples):
    batches = loader(samples, threads=0).batches()
    places = {next(batches).views[0].data_ptr() for _ in range(20)}
    assert len(places) <= 3


def test_batches__of_8_bit_images_stay_8_bit(folder):
    cohort = index(PNEUMONIA, folder / "eight")
    part = cohort.where("split == 'test'")
    samples = Samples.of(build_store(part, workers=1), part)
    (batch,) = take(loader(samples, policy=EvalView(size=28)).batches(), 1)
    assert batch.views[0].dtype == torch.uint8
    for i, row in enumerate(batch.rows.tolist()):
        np.testing.assert_array_equal(batch.views[0][i, 0], samples.store.read(row))


def test_batches__of_a_compressed_store_are_those_of_a_raw_one(cohort, samples, folder):
    packed = build_store(cohort, StoreConfig(codec="lz4"), workers=1, folder=folder / "lz4")
    other = Samples.of(packed, cohort, targets=np.arange(12))
    for a, b in zip(
        take(loader(samples).batches(), 3), take(loader(other).batches(), 3), strict=True
    ):
        assert_equal(a, b)


def test_batches__in_colour_have_three_channels(samples):
    colour = Samples(samples.store, samples.rows, DataConfig(channel="colour"))
    (batch,) = take(loader(colour).batches(), 1)
    assert batch.views[0].shape[1] == 3
    (grey,) = take(loader(samples).batches(), 1)
    assert torch.equal(batch.views[0][:, 1], grey.views[0][:, 0])


def test_batches__pass_an_error_of_a_thread_on(samples, monkeypatch):
    def fail(*arguments):
        raise DataError("planted")

    monkeypatch.setattr(samples, "image", fail)
    with pytest.raises(DataError, match="planted"):
        take(loader(samples, threads=2).batches(), 1)


def test_batches__of_a_group_sampler_show_small_groups_in_new_views(samples):
    groups = np.where(np.arange(len(samples)) < 2, 1, 0)
    made = Loader(samples, Views(TwoCrops(size=16)), GroupSampler(groups, 4, seed=0), seed=0)
    seen = {}
    for batch in take(made.batches(), 6):
        for row, view in zip(batch.rows.tolist(), batch.views[0], strict=True):
            if row < 2:
                seen.setdefault(row, []).append(view.numpy().tobytes())
    assert all(len(set(views)) == len(views) == 6 for views in seen.values())


@pytest.mark.parametrize("world", [1, 3])
def test_sweep__passes_every_sample_once_in_order(samples, world):
    got = [
        batch
        for rank in range(world)
        for batch in loader(samples, rank=rank, world=world, batch=6, sweep_batch=4).sweep()
    ]
    assert torch.cat([batch.rows for batch in got]).tolist() == list(range(len(samples)))
    assert all(tuple(batch.views[0].shape[1:]) == (1, 24, 24) for batch in got)


def test_sweep__needs_an_evaluation_view(samples):
    made = Loader(samples, Views(POLICY), PermutationSampler(len(samples), 6, seed=1), seed=1)
    with pytest.raises(ConfigError, match="sweep_views"):
        made.sweep()


def test_wait_fraction__is_a_share(samples):
    made = loader(samples, threads=0)
    take(made.batches(), 3)
    assert 0 < made.wait_fraction <= 1


def test_loader__refuses_numbers_out_of_range(samples):
    with pytest.raises(ConfigError, match="prefetch"):
        loader(samples, prefetch=0)


@pytest.mark.parametrize(("dtype", "full"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_widen__scales_standardises_and_repeats(dtype, full):
    values = torch.tensor([0, full // 5, full])
    view = values.to(dtype).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    empty = torch.zeros(3, dtype=torch.int64)
    batch = Batch([view], [], empty, empty, empty)
    got = widen(batch, channels=3, mean=(0.2, 0.5, 0.4), std=(0.1, 0.5, 2.0)).views[0]
    assert got.shape == (3, 3, 2, 2)
    for c, (mean, std) in enumerate(((0.2, 0.1), (0.5, 0.5), (0.4, 2.0))):
        expected = (values.double() / full - mean) / std
        torch.testing.assert_close(got[:, c, 0, 0].double(), expected, rtol=0, atol=2e-6)
    assert widen(batch, channels=1, dtype=torch.bfloat16).views[0].dtype == torch.bfloat16


def test_widen__refuses_colour_for_a_grey_backbone():
    empty = torch.zeros(2, dtype=torch.int64)
    batch = Batch([torch.zeros(2, 3, 4, 4, dtype=torch.uint8)], [], empty, empty, empty)
    with pytest.raises(DataError, match="in_channels"):
        widen(batch, channels=1)
