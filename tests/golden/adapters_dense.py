"""Adapters of pixel-to-propagation consistency."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from tests.golden.case import Case, batch_of, gradients, leaf, progress
from torch import Tensor, nn

from scoutview.methods.pixpro import PixPro, PixProConfig
from scoutview.nn.backbones import Dense
from scoutview.nn.losses.places import Frame, place_consistency, same_place, view_frame
from scoutview.nn.teacher import cosine_momentum

_VIEW = 7
"""Pixels of a view along a side; the coordinates do not depend on it."""


def pixpro(case: Case) -> dict[str, Any]:
    if "q" in case.ins:
        return _regression_loss(case)
    if "feat" in case.ins:
        return _propagation(case)
    if "crop" in case.ins:
        return _crop_coordinates(case)
    a = case.arguments
    steps = case.ins["step"].tolist()
    return {"momentum": np.array([cosine_momentum(a["m0"], step / a["K"]) for step in steps])}


def _regression_loss(case: Case) -> dict[str, Any]:
    grid = tuple(case.ins["q"].shape[2:])
    q = leaf(case.ins["q"])
    k = case.ins["k"]
    geometry = [_affine(_frame(case.ins[name]), grid) for name in ("coord_q", "coord_k")]
    batch = replace(batch_of(q, k), geometry=geometry)
    losses = {}
    for doubled in (False, True):
        method = _method(
            case.arguments["C"], doubled_loss=doubled, threshold=case.arguments["pos_ratio"]
        )
        method.place_projector, method.propagation = nn.Identity(), nn.Identity()
        method.teacher_projector = nn.Identity()
        losses[doubled] = method(batch, progress()).loss
    # The way back has the same value, because nothing lies between q or k and the loss.
    loss, paper = losses[True] / 2.0, losses[False] / 2.0
    # The method brings q to length 1, which the reference does before: its gradient starts behind.
    frames = (_frame(case.ins["coord_q"]), _frame(case.ins["coord_k"]))
    same = same_place(*frames, grid, grid, threshold=case.arguments["pos_ratio"])
    behind = 2.0 * place_consistency(_cells(q), _cells(k), same)
    return {"loss": loss, "paper_loss": paper, **gradients(behind, q=q)}


class _Maps(nn.Module):
    """A backbone for feature maps, (B, D, H, W): gives back what it gets."""

    ndim, strides = 2, (1,)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.widths = dim, (dim,)

    def dense(self, view: Tensor) -> Dense:
        return Dense(_cells(view), tuple(view.shape[2:]), view.mean(dim=(2, 3)))


def _method(dim: int, **settings: Any) -> Any:
    config = PixProConfig.build({"hidden_dim": 1, "output_dim": dim, **settings})
    return PixPro(cast("Any", _Maps(dim)), config).double()


def _affine(frame: Frame, grid: tuple[int, ...]) -> Tensor:
    """Map from the pixels of a view to its image, (B, 2, 3), as `view_frame` reads it."""
    lengths = torch.tensor(grid, dtype=torch.float64)
    linear = frame.sides / lengths
    offset = frame.corner + (linear / 2).sum(dim=2)
    return torch.cat([linear, offset[:, :, None]], dim=2)


def _frame(boxes: Tensor) -> Frame:
    """Boxes x0 y0 x1 y1, (B, 4), as corners and sides in the order of the array's axes."""
    corner = boxes[:, [1, 0]]
    return Frame(corner, torch.diag_embed(boxes[:, [3, 2]] - corner))


def _cells(feature_map: Tensor) -> Tensor:
    return feature_map.flatten(2).transpose(1, 2)


def _propagation(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    method = _method(
        a["C"],
        exponent=a["p"],
        transform_layers=a["transform_layers"],
        normalise_values=True,
        clamp=a["clamp"],
    )
    module = method.propagation
    (linear,) = module.transform
    linear.weight.data.copy_(ins["value.weight"].flatten(1))
    linear.bias.data.copy_(ins["value.bias"])
    feat = leaf(ins["feat"])
    y = module(_cells(feat)).transpose(1, 2).view_as(feat)
    return {"y": y, **gradients((y * ins["cotangent"]).sum(), feat=feat)}


def _crop_coordinates(case: Case) -> dict[str, Any]:
    crop, flips = case.ins["crop"].double(), case.ins["flips"]
    start, length, image = crop[:, :2], crop[:, 2:4], crop[:, 4:]  # y, x each
    zoom = length / _VIEW * torch.where(flips.flip(1), -1.0, 1.0)  # flips come as x, y
    offset = start + length / 2 - 0.5 - zoom * (_VIEW - 1) / 2
    affine = torch.cat([torch.diag_embed(zoom), offset[:, :, None]], dim=2)
    frame = view_frame(affine, (_VIEW, _VIEW), span="centres")
    first, last = frame.corner / (image - 1), (frame.corner + frame.sides.sum(dim=2)) / (image - 1)
    return {"coord": torch.cat([first.flip(1), last.flip(1)], dim=1)}
