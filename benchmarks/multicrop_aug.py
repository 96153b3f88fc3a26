"""Multi-crop views, 2 x 224 + 6 x 96 from one 512 x 512 uint16 radiograph, per core.

Paired in one run with torchvision v2 on tensors and on PIL images (the same kinds of change: crop,
flip, brightness and contrast, blur) and with a floor of 8 bare `cv2.resize` calls. Ours includes
the generator and the drawing. Before the clock runs, the views are compared with torchvision's
antialiased resize of the same crops: a fast kernel with wrong pixels counts for nothing.

Run: OMP_NUM_THREADS=1 python benchmarks/multicrop_aug.py --out multicrop_aug.json
"""

import importlib.resources
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmarks.pairing import finish, paired, parser
from numpy.typing import NDArray
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from scoutview.base.randomness import VIEWS, generator
from scoutview.views.apply import apply
from scoutview.views.draw import ViewParams
from scoutview.views.geometry import reach
from scoutview.views.pipeline import Views
from scoutview.views.policy import Augment, Intensity, MultiCrop

SIDE = 512
SIZES = (224,) * 2 + (96,) * 6
SCALES = ((0.14, 1.0),) * 2 + ((0.05, 0.14),) * 6
LEAST_PSNR = 40.0
"""Quality below which the timing does not count, dB."""
OVER_TORCHVISION, OVER_FLOOR = 15.0, 1 / 6
"""Bars: times torchvision v2, and the share of the floor's rate that must be left."""

Image = NDArray[np.uint16]


def radiograph() -> Image:
    """Enlarge a mosaic of real chest radiographs to the size of the benchmark, with film noise."""
    file = importlib.resources.files("scoutview") / "demo_data" / "pneumoniamnist.npz"
    with importlib.resources.as_file(file) as path:
        tiles = np.load(Path(path))["train_images"][:16].reshape(4, 4, 28, 28)
    mosaic = tiles.swapaxes(1, 2).reshape(112, 112)
    large = cv2.resize(mosaic.astype(np.float32) * 257, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 600, large.shape)
    return np.clip(large + grain, 0, 65535).astype(np.uint16)


def our_policy(*, rotation: float = 0.0) -> MultiCrop:
    """SwAV's views as far as one channel has them."""
    augment = Augment(
        flip_horizontal=0.5,
        rotation=rotation,
        intensity=Intensity(brightness=0.8, contrast=0.8, blur_probability=0.5),
    )
    return MultiCrop(augment=(augment,))


def ours(image: Image, policy: MultiCrop, samples: int) -> Callable[[], float]:
    views = Views(policy)
    out = [np.empty((1, *size), np.uint16) for size in views.sizes]

    def work() -> float:
        for key in range(samples):
            views.apply(image, views.draw(image.shape, generator(0, VIEWS, 0, key)), out)
        return samples

    return work


def torchvision_v2(image: Image, samples: int) -> Callable[[], float]:
    tensor = torch.from_numpy(image).float()[None] / 65535
    return _torchvision(tensor, lambda: tensor, samples)


def torchvision_v1(image: Image, samples: int) -> Callable[[], float]:
    rgb = cv2.cvtColor((image >> 8).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    pil = v2.functional.to_pil_image(torch.from_numpy(rgb).permute(2, 0, 1))
    return _torchvision(pil, lambda: pil, samples)


def _torchvision(_: object, source: Callable[[], object], samples: int) -> Callable[[], float]:
    chains = [
        v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=scale, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.8, 0.8)], p=0.8),
                v2.RandomApply([v2.GaussianBlur(23 if size == 224 else 9, (0.1, 2.0))], p=0.5),
            ]
        )
        for size, scale in zip(SIZES, SCALES, strict=True)
    ]

    def work() -> float:
        for _ in range(samples):
            for chain in chains:
                chain(source())
        return samples

    return work


def floor(image: Image, policy: MultiCrop, samples: int) -> Callable[[], float]:
    """Resize the crops that `ours` draws, rounded to whole pixels, and nothing else."""
    views = Views(policy)
    boxes = [
        [_box(params) for params in views.draw(image.shape, generator(0, VIEWS, 0, key))]
        for key in range(128)
    ]
    out = [np.empty(size, np.uint16) for size in views.sizes]

    def work() -> float:
        for key in range(samples):
            for (top, bottom, left, right), place in zip(boxes[key % 128], out, strict=True):
                crop = image[top:bottom, left:right]
                cv2.resize(crop, place.shape[::-1], dst=place, interpolation=cv2.INTER_LINEAR)
        return samples

    return work


def _box(params: ViewParams) -> tuple[int, int, int, int]:
    (top, bottom), (left, right) = reach(params.affine, params.size)
    return round(top), round(bottom) + 1, round(left), round(right) + 1


def quality(image: Image) -> float:
    """Lowest PSNR of our views against torchvision's antialiased resize of the same crop, dB."""
    tensor = torch.from_numpy(image).float()[None]
    worst = np.inf
    for size in (224, 96):
        for length in range(64, SIDE + 1, 32):
            start = (SIDE - length) // 2
            zoom = length / size
            offset = start + zoom / 2 - 0.5
            affine = ((zoom, 0.0, offset), (0.0, zoom, offset))
            view = apply(image, ViewParams(affine, (size, size)))[0]
            reference = tvf.resized_crop(
                tensor, start, start, length, length, [size, size], antialias=True
            )[0].numpy()
            # The outermost pixels see beyond the crop here, and its mirrored edge there.
            error = (view - reference)[2:-2, 2:-2] / 65535
            worst = min(worst, -10 * np.log10(np.mean(error**2) + 1e-20))
    return float(worst)


def main() -> None:
    options = parser(__doc__).parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    image = radiograph()
    psnr = quality(image)
    if psnr < LEAST_PSNR:
        raise SystemExit(f"PSNR {psnr:.1f} dB is below {LEAST_PSNR} dB; the timing means nothing.")
    share = 4 if options.quick else 1
    report = paired(
        "multicrop_aug",
        "samples (2 x 224 + 6 x 96 from 512 x 512 uint16), one core",
        {
            "ours": ours(image, our_policy(), 128 // share),
            "ours with rotation": ours(image, our_policy(rotation=15), 128 // share),
            "torchvision v2 tensor": torchvision_v2(image, 12 // share),
            "torchvision PIL RGB": torchvision_v1(image, 8 // share),
            "8 bare cv2.resize": floor(image, our_policy(), 512 // share),
        },
        rounds=options.rounds,
        targets={"torchvision v2 tensor": OVER_TORCHVISION, "8 bare cv2.resize": OVER_FLOOR},
        extra={"lowest PSNR against antialiased resize, dB": round(psnr, 1)},
    )
    finish(report, options.out)


if __name__ == "__main__":
    main()
