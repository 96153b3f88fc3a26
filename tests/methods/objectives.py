"""Small objectives of every registered method, built without naming any."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from scoutview.contract import LabelSpec, Objective, Progress, Sweep
from scoutview.data.batch import Batch
from scoutview.methods import build, config_class
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import Backbone, BackboneConfig, build_backbone

LABELS = LabelSpec(kind="multilabel", names=("effusion", "nodule", "device"))

SMALL = {
    "hidden_dim": 32,
    "output_dim": 16,
    "prototypes": 8,
    "clusters": (4, 6),
    "prototype_warmup": 0.0,
    "queue_length": 8,
    "queue_from_epoch": 0,
    "frozen_epochs": 0.0,
    "negatives": 8,
    "bottleneck_dim": 8,
    "teacher_warmup_epochs": 0.0,
    "inter_clusters": 4,
    "min_cluster": 2,
    "inter_negatives": 8,
    "refresh_every": 2,
}
"""Settings that make a method small, whichever of them it has."""

TINY = BackboneConfig(
    name="resnet18", small_stem=True, stage_widths=(8, 8, 16, 16), stage_depths=(1, 1, 1, 1)
)
"""About ten thousand parameters."""


def small_config(name: str, **changes: object) -> MethodConfig:
    kind = config_class(name)
    values = SMALL | changes
    return kind(**{field: v for field, v in values.items() if field in kind.model_fields})


def small_backbone(config: BackboneConfig = TINY) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(config)


def small_objective(
    name: str, backbone: Backbone | None = None, config: MethodConfig | None = None
) -> Objective:
    backbone, config = backbone or small_backbone(), config or small_config(name)
    torch.manual_seed(1)
    return build(name, backbone, config, dataset_size=64, labels=LABELS)


def views_of(config: MethodConfig, images: Tensor, seed: int) -> list[Tensor]:
    """Noisy copies of images, (B, C, H, W); each smaller size of the policy halves them."""
    specs = config.views.specs(2)
    sizes = sorted({spec.size for spec in specs}, reverse=True)
    noise = torch.Generator().manual_seed(seed)
    views = []
    for spec in specs:
        shrink = 2 ** sizes.index(spec.size)
        view = images + 0.2 * torch.randn(images.shape, generator=noise).to(images)
        views.append(torch.nn.functional.avg_pool2d(view, shrink))
    return views


def geometry_of(config: MethodConfig, size: int) -> list[Tensor]:
    """Maps from the views of `views_of` to their images, (B, 2, 3) each."""
    specs = config.views.specs(2)
    sizes = sorted({spec.size for spec in specs}, reverse=True)
    affines = []
    for spec in specs:
        zoom = 2.0 ** sizes.index(spec.size)
        middle = (zoom - 1) / 2
        affine = torch.tensor([[zoom, 0.0, middle], [0.0, zoom, middle]])
        affines.append(affine.repeat(size, 1, 1))
    return affines


def make_batch(
    name: str, size: int, *, seed: int = 0, dtype: torch.dtype = torch.float32, side: int = 32
) -> Batch:
    """Smooth random images, each with its own pattern, and labels of which some are missing."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(size, 1, 4, 4, generator=generator, dtype=torch.float64)
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").to(dtype)
    rows = torch.arange(size)
    targets = torch.randint(0, 2, (size, LABELS.outputs), generator=generator).float()
    targets[torch.rand(targets.shape, generator=generator) < 0.25] = -100.0
    targets[0] = 1.0
    return Batch(
        views=views_of(small_config(name), images, seed),
        geometry=geometry_of(small_config(name), size),
        rows=rows,
        image_keys=rows,
        groups=torch.zeros_like(rows),
        targets=targets,
    )


def part_of(batch: Batch, rank: int, world: int) -> Batch:
    """The contiguous part of a global batch that one process sees."""
    n = len(batch) // world
    mine = slice(rank * n, (rank + 1) * n)
    return Batch(
        views=[view[mine] for view in batch.views],
        geometry=[affine[mine] for affine in batch.geometry],
        rows=batch.rows[mine],
        image_keys=batch.image_keys[mine],
        groups=batch.groups[mine],
        targets=None if batch.targets is None else batch.targets[mine],
    )


def sweep_of(
    name: str,
    rank: int = 0,
    world: int = 1,
    *,
    images: int = 64,
    dtype: torch.dtype = torch.float32,
    side: int = 32,
) -> Sweep:
    """Passes over the first images of the training set, for `between_epochs`, in two batches."""

    def sweep() -> Iterator[Batch]:
        mine = part_of(make_batch(name, images, seed=7, dtype=dtype, side=side), rank, world)
        for part in range(2):
            batch = part_of(mine, part, 2)
            yield replace(batch, views=batch.views[:1])

    return sweep


def progress(step: int, total: int = 30) -> Progress:
    return Progress(step=step, total_steps=total, epoch=step, total_epochs=total, dataset_size=64)
