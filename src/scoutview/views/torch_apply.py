"""Apply drawn parameters to a batch on any device; the same steps as `apply`, in float32.

Sampling is one `grid_sample` per pyramid level in use, blur a separable sum of shifted copies, the
rest plain arithmetic. Works in 2D and 3D. Differs from the CPU kernel by the roundings there.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scoutview.base.errors import DataError
from scoutview.views.apply import blur_kernel
from scoutview.views.draw import ViewParams
from scoutview.views.geometry import at_level, is_straight, pyramid_level
from scoutview.views.noise import FIRST, SECOND, STRIDE, pattern_key, quantiles

_WORD = 0xFFFFFFFF
_LIMITS = {torch.uint8: 255.0, torch.uint16: 65535.0}


def apply_batch(images: Tensor, params: Sequence[ViewParams]) -> Tensor:
    """Make one view of every image of a batch.

    Args:
        images: (B, C, *S), uint8 or uint16 with full range for [0, 1], or float already in [0, 1].
        params: One entry per image, all of one size.

    Returns:
        The views, (B, C, *size) float32 in [0, 1], on the images' device.

    Raises:
        DataError: Counts, sizes or dimensions do not agree, or a view changes energy bands.
    """
    ndim = images.ndim - 2
    if len(params) != len(images) or len({p.size for p in params}) != 1:
        raise DataError(
            f"A batch of {len(images)} images needs as many views of one size, got {len(params)} of"
            f" sizes {sorted({p.size for p in params})}; group views by size."
        )
    if len(params[0].size) != ndim:
        raise DataError(f"Views of size {params[0].size} cannot come from {ndim}-D images.")
    if any(p.energy is not None for p in params):
        raise DataError(
            "Energy bands change whole images on the CPU; make the views there (views.apply,"
            " views_on = cpu)."
        )
    with torch.autocast(images.device.type, enabled=False):
        views = _sample(as_unit(images), params)
        means = views.flatten(1).mean(1)  # (B,)
        return _cut(_change(_blur(views, params), params, means), params)


def as_unit(images: Tensor) -> Tensor:
    """Bring integers of full range to [0, 1] in float32; floating images stay as they are."""
    if images.dtype == torch.float32:
        return images
    return images.float() / _LIMITS.get(images.dtype, 1.0)


def _sample(images: Tensor, params: Sequence[ViewParams]) -> Tensor:
    groups: dict[tuple[int, bool], list[int]] = {}
    for number, p in enumerate(params):
        key = (pyramid_level(p.affine), p.border == "reflect")
        groups.setdefault(key, []).append(number)
    views = images.new_empty((*images.shape[:2], *params[0].size))
    whole, level = tuple(images.shape[2:]), 0
    for (wanted, reflect), members in sorted(groups.items()):
        while level < wanted:
            images, level = halve(images), level + 1
        chosen = [params[m] for m in members]
        index = torch.tensor(members, device=images.device)
        coordinates = _coordinates(chosen, level, images.device)  # (b, *size, ndim)
        part = F.grid_sample(
            images[index],
            _normalised(coordinates, images.shape[2:]),
            padding_mode="reflection" if reflect else "border",
            align_corners=False,
        )
        if not reflect:
            cover = _coverage(chosen, coordinates, whole, level)
            part = part * cover.unsqueeze(1)
        views[index] = part
    return views


def halve(images: Tensor) -> Tensor:
    """Average blocks of two pixels along every axis; an odd edge is repeated."""
    padding = [n % 2 * side for n in reversed(images.shape[2:]) for side in (0, 1)]
    if any(padding):
        images = F.pad(images, padding, mode="replicate")
    return F.avg_pool2d(images, 2) if images.ndim == 4 else F.avg_pool3d(images, 2)


def _coordinates(params: Sequence[ViewParams], level: int, device: torch.device) -> Tensor:
    """Coordinates at a level of every pixel of every view, (b, *size, ndim)."""
    size, ndim = params[0].size, len(params[0].size)
    affines = torch.tensor([at_level(p.affine, level) for p in params], device=device)
    affines = affines.reshape(len(params), *[1] * ndim, ndim, ndim + 1)
    moved = affines[..., -1].expand(-1, *size, -1)
    for axis, length in enumerate(size):
        # No matrix product: autocast and TF32 would round coordinates to a few bits.
        steps = torch.arange(length, dtype=torch.float32, device=device)
        shape = [length if a == axis else 1 for a in range(ndim)]
        moved = moved + steps.reshape(1, *shape, 1) * affines[..., axis]
    return moved


def _normalised(coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    """To grid_sample's units: -1 and 1 are the outer edges, x comes first."""
    lengths = torch.tensor(list(shape), dtype=torch.float32, device=coordinates.device)
    return ((2 * coordinates + 1) / lengths - 1).flip(-1)


def _coverage(
    params: Sequence[ViewParams], coordinates: Tensor, shape: Sequence[int], level: int
) -> Tensor:
    """1 inside the image, 0 outside, (b, *size); the border rules of `apply`."""
    device = coordinates.device
    ends = torch.tensor(list(shape), dtype=torch.float32, device=device) * 0.5**level - 0.5
    hard = ((coordinates >= -0.5 - 1e-4) & (coordinates <= ends + 1e-4)).all(-1).float()
    last = torch.tensor([-(-n // 2**level) for n in shape], dtype=torch.float32, device=device)
    soft = torch.minimum(coordinates + 1, last - coordinates).clamp(0, 1).prod(-1)
    ones = [1] * (coordinates.ndim - 2)
    straight = torch.tensor([is_straight(p.affine) for p in params], device=device)
    edge = torch.tensor([p.border == "edge" for p in params], device=device)
    cover = torch.where(straight.reshape(-1, *ones), hard, soft)
    return torch.where(edge.reshape(-1, *ones), 1.0, cover)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """One number per image, ready to broadcast over (B, C, *S)."""
    column = torch.tensor(values, dtype=torch.float32, device=like.device)
    return column.reshape(-1, *[1] * (like.ndim - 1))


def _blur(views: Tensor, params: Sequence[ViewParams]) -> Tensor:
    members = [number for number, p in enumerate(params) if p.blur > 0]
    if not members:
        return views
    kernels = [blur_kernel(params[m].blur, min(params[m].size)) for m in members]
    radius = max(len(k) for k in kernels) // 2
    table = torch.zeros(len(members), radius + 1)  # one half of each kernel, from its middle
    for row, kernel in zip(table, kernels, strict=True):
        row[: len(kernel) // 2 + 1] = torch.from_numpy(kernel[len(kernel) // 2 :])
    index = torch.tensor(members, device=views.device)
    blurred = views[index]
    for axis in range(2, views.ndim):
        blurred = _blur_along(blurred, table.to(views.device), axis)
    return views.index_copy(0, index, blurred)


def _blur_along(views: Tensor, kernels: Tensor, axis: int) -> Tensor:
    """Weighted sum of shifted copies; a convolution would be rounded to TF32 on some devices."""
    radius, length = kernels.shape[1] - 1, views.shape[axis]
    padding = [0, 0] * (views.ndim - 2)
    place = 2 * (views.ndim - 1 - axis)
    padding[place : place + 2] = [radius, radius]
    wide = F.pad(views, padding, mode="reflect")
    weights = kernels.reshape(len(kernels), -1, *[1] * (views.ndim - 1))
    total = views * weights[:, 0]
    for shift in range(1, radius + 1):
        left = wide.narrow(axis, radius - shift, length)
        right = wide.narrow(axis, radius + shift, length)
        total = total.addcmul(left + right, weights[:, shift])
    return total


def _change(views: Tensor, params: Sequence[ViewParams], means: Tensor) -> Tensor:
    """Brightness, contrast, shift, gamma, solarise and noise, each only if some view has it."""
    scale = _column([p.brightness * p.contrast for p in params], views)
    shift = _column([p.brightness * (1 - p.contrast) for p in params], views)
    added = _column([p.shift for p in params], views)
    views = (views * scale + shift * means.reshape(scale.shape) + added).clamp(0, 1)
    if any(p.gamma != 1 for p in params):
        views = views ** _column([p.gamma for p in params], views)
    if any(p.solarise is not None for p in params):
        never = float("inf")
        limits = _column([never if p.solarise is None else p.solarise for p in params], views)
        views = torch.where(views >= limits, 1 - views, views)
    members = [number for number, p in enumerate(params) if p.noise > 0]
    if members:
        index = torch.tensor(members, device=views.device)
        sigmas = _column([params[m].noise for m in members], views)
        noise = _noise([params[m].noise_seed for m in members], views)
        views = views.index_add(0, index, noise * sigmas).clamp(0, 1)
    return views


@lru_cache(maxsize=8)
def _quantiles(device: torch.device) -> Tensor:
    return torch.from_numpy(quantiles()).to(device)


def _noise(seeds: Sequence[int], like: Tensor) -> Tensor:
    """The patterns of `views.noise`, one per seed, (b, C, *S); the 32-bit hash in 64-bit words."""
    count = like[0].numel()
    device = like.device
    keys = torch.tensor([pattern_key(s) for s in seeds], dtype=torch.int64, device=device)
    x = (torch.arange(count, device=device) * STRIDE & _WORD) ^ keys.reshape(-1, 1)
    x = (x ^ (x >> 16)) * FIRST & _WORD
    x = (x ^ (x >> 15)) * SECOND & _WORD
    return _quantiles(device)[x >> 16].reshape(len(seeds), *like.shape[1:])


def _cut(views: Tensor, params: Sequence[ViewParams]) -> Tensor:
    for number, p in enumerate(params):
        for box in p.holes:
            view = views[number]
            fill = view.mean() if p.fill_mean else view.new_zeros(())
            view[(slice(None), *(slice(start, stop) for start, stop in box))] = fill
    return views
