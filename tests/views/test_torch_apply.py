"""The batched kernel against the CPU kernel, and on volumes against SciPy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scoutview.base.errors import DataError
from scoutview.base.randomness import VIEWS, generator
from scoutview.views.apply import apply
from scoutview.views.draw import draw
from scoutview.views.policy import Augment, CutOut, EvalView, Intensity, MultiCrop, TwoCrops
from scoutview.views.torch_apply import apply_batch

MIXED = Augment(
    flip_horizontal=0.5,
    flip_vertical=0.5,
    rotation=30,
    rotation_probability=0.6,
    intensity=Intensity(
        brightness=0.4,
        contrast=0.4,
        gamma=(0.7, 1.4),
        gamma_probability=0.5,
        blur_probability=0.5,
        noise_probability=0.3,
        solarise_probability=0.2,
    ),
    cut_out=CutOut(holes=(1, 3)),
)
TOLERANCE = {np.uint16: 5e-4, np.uint8: 3e-2}
"""Largest difference on [0, 1]: the CPU kernel rounds after each halving and after sampling, which
contrast and gamma then enlarge."""
MEAN_TOLERANCE = {np.uint16: 2e-5, np.uint8: 3e-3}


def images(shape, dtype, count):
    rng = np.random.default_rng(3)
    blurred = (1.5, 1.5, *[0] * (len(shape) - 2))
    fields = [ndimage.gaussian_filter(rng.random(shape), blurred) for _ in range(count)]
    limit = np.iinfo(dtype).max
    return [((f - f.min()) / np.ptp(f) * limit).round().astype(dtype) for f in fields]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(120, 131), (67, 90, 3)])
@pytest.mark.parametrize("border", ["zero", "edge", "reflect"])
def test_apply_batch__agrees_with_the_cpu_kernel(dtype, shape, border):
    stored = images(shape, dtype, 6)
    augment = MIXED.model_copy(update={"border": border})
    policy = MultiCrop(counts=(1, 2), sizes=(37, (16, 20)), scales=((0.2, 1.0), (0.05, 0.9)),
                       augment=(augment,))  # fmt: skip
    drawn = [draw(policy, shape[:2], generator(0, VIEWS, 0, key)) for key in range(6)]
    first = [i[None] if i.ndim == 2 else np.moveaxis(i, -1, 0) for i in stored]
    batch = torch.from_numpy(np.stack(first))
    for view in range(3):
        params = [d[view] for d in drawn]
        got = apply_batch(batch, params).numpy()
        expected = np.stack([apply(i, p) for i, p in zip(stored, params, strict=True)])
        error = np.abs(got - expected / np.iinfo(dtype).max)
        assert error.max() < TOLERANCE[dtype]
        assert error.mean() < MEAN_TOLERANCE[dtype]


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_apply_batch__agrees_on_the_evaluation_view(fit):
    (image,) = images((50, 81), np.uint16, 1)
    params = draw(EvalView(size=64, fit=fit), image.shape, generator(0, VIEWS, 0, 0))
    got = apply_batch(torch.from_numpy(image)[None, None], params)[0].numpy()
    np.testing.assert_allclose(got, apply(image, params[0]) / 65535, atol=1e-4)


def test_apply_batch__identity_keeps_float_images():
    image = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    params = draw(EvalView(size=28), (28, 28), generator(0, VIEWS, 0, 0)) * 2
    torch.testing.assert_close(apply_batch(image, params), image, atol=2e-6, rtol=0)


def test_apply_batch__of_volumes_equals_scipys_affine():
    (volume,) = images((30, 34, 38), np.uint16, 1)
    augment = Augment(rotation=25, rotation_through=15, flip_depth=0.5, border="edge")
    policy = TwoCrops(size=(12, 20, 24), scale=(0.05, 0.15), first=augment)
    for params in draw(policy, volume.shape, generator(0, VIEWS, 0, 2)):
        got = apply_batch(torch.from_numpy(volume)[None, None], [params])[0, 0].numpy()
        affine = np.array(params.affine)
        expected = ndimage.affine_transform(
            volume / 65535, affine[:, :3], affine[:, 3], params.size, order=1, mode="nearest"
        )
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_apply_batch__of_volumes_changes_grey_values_like_planes():
    """A volume of equal slices seen through in-plane parameters gives equal slices."""
    (image,) = images((40, 44), np.uint16, 1)
    volume = np.repeat(image[None], 8, axis=0)
    params = draw(
        EvalView(size=(8, 20, 22), fit="stretch"), volume.shape, generator(0, VIEWS, 0, 0)
    )
    changed = [params[0]._replace(brightness=0.8, contrast=1.2, gamma=1.2, blur=0.8)]
    got = apply_batch(torch.from_numpy(volume)[None, None], changed)[0, 0]
    torch.testing.assert_close(got, got[:1].expand_as(got), atol=1e-5, rtol=0)


def test_apply_batch__is_not_rounded_by_autocast():
    (image,) = images((64, 64), np.uint16, 1)
    params = draw(TwoCrops(size=32, first=MIXED), (64, 64), generator(0, VIEWS, 0, 0))[:1]
    batch = torch.from_numpy(image)[None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = apply_batch(batch, params)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, apply_batch(batch, params), atol=0, rtol=0)


def test_apply_batch__refuses_batches_that_do_not_fit():
    batch = torch.zeros(2, 1, 8, 8)
    params = draw(MultiCrop(counts=(1, 1), sizes=(8, 4)), (8, 8), generator(0, VIEWS, 0, 0))
    with pytest.raises(DataError, match="group views by size"):
        apply_batch(batch, params)
    with pytest.raises(DataError, match="3-D images"):
        apply_batch(torch.zeros(1, 1, 8, 8, 8), params[:1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_apply_batch__agrees_between_devices():
    stored = images((120, 131), np.uint16, 8)
    batch = torch.from_numpy(np.stack(stored))[:, None]
    policy = TwoCrops(size=48, first=MIXED)
    params = [draw(policy, (120, 131), generator(0, VIEWS, 0, key))[0] for key in range(8)]
    there = apply_batch(batch.cuda(), params).cpu()
    torch.testing.assert_close(there, apply_batch(batch, params), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", range(60))
def test_apply_batch__agrees_on_any_shape(case):
    """Images and views from one pixel to a few hundred, white noise, all borders and turns."""
    rng = np.random.default_rng(case)
    shape = tuple(int(n) for n in np.exp(rng.uniform(0, 5.5, 2)))
    size = tuple(int(n) for n in np.exp(rng.uniform(0, 4.5, 2)))
    augment = MIXED.model_copy(
        update={
            "border": ("zero", "edge", "reflect")[case % 3],
            "rotation": (0.0, 180.0)[case % 2],
            "intensity": Intensity(brightness=0.4, contrast=0.4, blur_probability=0.5),
        }
    )
    image = rng.integers(0, 65536, shape, dtype=np.uint16)
    policy = TwoCrops(size=size, scale=(0.01, 1), first=augment)
    for params in draw(policy, shape, generator(0, VIEWS, 0, case)):
        got = apply_batch(torch.from_numpy(image)[None, None], [params])[0].numpy()
        np.testing.assert_allclose(got, apply(image, params) / 65535, atol=3e-3)
