"""Adapters of pixel-to-propagation consistency."""

from typing import Any

import numpy as np
import torch
from tests.golden.case import Case, gradients, leaf
from torch import Tensor

from scoutview.nn.losses.places import Frame, place_consistency, same_place, view_frame
from scoutview.nn.propagation import PixelPropagation
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
    frames = (_frame(case.ins["coord_q"]), _frame(case.ins["coord_k"]))
    same = same_place(*frames, grid, grid, threshold=case.arguments["pos_ratio"])
    paper = place_consistency(_cells(q), _cells(k), same)
    return {"loss": 2.0 * paper, "paper_loss": paper, **gradients(2.0 * paper, q=q)}


def _frame(boxes: Tensor) -> Frame:
    """Boxes x0 y0 x1 y1, (B, 4), as corners and sides in the order of the array's axes."""
    corner = boxes[:, [1, 0]]
    return Frame(corner, torch.diag_embed(boxes[:, [3, 2]] - corner))


def _cells(feature_map: Tensor) -> Tensor:
    return feature_map.flatten(2).transpose(1, 2)


def _propagation(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    module = PixelPropagation(
        a["C"], exponent=a["p"], layers=a["transform_layers"], normalise_values=True
    ).double()
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
