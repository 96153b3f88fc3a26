"""Adapters of the methods with a memory bank or with shuffled patches."""

from typing import Any

import numpy as np
import torch
from tests.golden.case import Case, Vectors, gradients, leaf, progress
from torch import Tensor, nn

from scoutview.methods.infomin import InfoMin, InfoMinConfig
from scoutview.methods.insdis import InsDis, InsDisConfig
from scoutview.methods.pirl import PIRL, PIRLConfig
from scoutview.nn.losses.contrastive import info_nce_logits
from scoutview.nn.losses.nce import bank_logits
from scoutview.nn.precision import unit

Outputs = dict[str, Any]


def stacked(steps: list[Outputs]) -> Outputs:
    return {name: torch.stack([step[name] for step in steps]) for name in steps[0]}


def insdis(case: Case) -> Outputs:
    a, ins = case.arguments, case.ins
    drawn = "nce" if "prob" in case.outs else "softmax_bank"
    form = drawn if "idx" in ins else "full_softmax"
    images, dim = ins["memory"].shape
    config = InsDisConfig.build(
        {
            "loss": form,
            "output_dim": dim,
            "temperature": a["temperature"],
            "bank_momentum": 1 - a["momentum"],  # the reference's is the weight of the old row
            "proximal_weight": 0,
            "epsilon": 1e-7,
            "z_epochs": 0,
        }
    )
    method = InsDis(Vectors(dim), config, dataset_size=images).double()
    method.bank.rows.copy_(ins["memory"])
    if form == "full_softmax":
        return insdis_step(method, ins["x"], ins["y"], None)
    steps = zip(ins["x"], ins["y"], ins["idx"], strict=True)
    return stacked([insdis_step(method, x, y, idx[:, 1:]) for x, y, idx in steps])


def insdis_step(method: InsDis, x: Tensor, y: Tensor, drawn: Tensor | None) -> Outputs:
    query, config = leaf(x), method.config
    memory = method.bank.rows.clone()
    loss, _ = method.loss(query, y, drawn)
    out = {"loss": loss.detach(), **gradients(loss, x=query)}
    method.after_update(progress())
    if drawn is None:
        logits = x @ memory.T / config.temperature
    else:
        logits = bank_logits(x, memory[y], memory[drawn], temperature=config.temperature)
    z = method.constant.log_z.exp()
    return out | {
        "logits": logits,
        "prob": logits.exp() / z,
        "Z": z,
        "memory_after": method.bank.rows.clone(),
    }


def pirl(case: Case) -> Outputs:
    return pirl_vissl(case) if "x_jig" in case.ins else pirl_pycontrast(case)


def pirl_method(case: Case, width: int, **settings: Any) -> PIRL:
    a, memory = case.arguments, case.ins["memory"]
    config = PIRLConfig.build(
        {
            "output_dim": memory.shape[1],
            "temperature": a["temperature"],
            "bank_momentum": 1 - a["momentum"],
            **settings,
        }
    )
    method = PIRL(Vectors(width), config, dataset_size=len(memory)).double()
    method.bank.rows.copy_(memory)
    return method


def patches_in_order(features: Tensor, perm: Tensor) -> Tensor:
    """Image-major patches and their order to what the head takes: patch by patch, in that order."""
    images = torch.arange(len(perm))[:, None]
    return features.view(*perm.shape, -1)[images, perm].transpose(0, 1).flatten(0, 1)


def load_head(head: nn.Module, ins: dict[str, Tensor]) -> None:
    """Copy the published head's weights; its fc1 projects a patch and its fc2 joins them."""
    names = [name for name in ins if name.startswith("head.")]
    mine = list(head.state_dict())
    assert len(names) == len(mine)
    head.load_state_dict({m: ins[n] for m, n in zip(mine, names, strict=True)})


def pirl_pycontrast(case: Case) -> Outputs:
    a, ins = case.arguments, case.ins
    width = ins["patch_feat"].shape[1]
    method = pirl_method(case, width, loss="softmax", jigsaw_weight=a["beta"])
    paper = pirl_method(case, width)
    load_head(method.jigsaw, ins)
    f_raw, patch_feat = leaf(ins["f_raw"]), leaf(ins["patch_feat"])
    image, jigsaw = unit(f_raw), unit(method.jigsaw(patches_in_order(patch_feat, ins["perm"])))
    drawn = ins["idx"][:, 1:]
    of_image, of_jigsaw = method.losses(image, jigsaw, ins["y"], drawn)
    paper_image, paper_jigsaw = paper.losses(image, jigsaw, ins["y"], drawn)
    loss = torch.lerp(of_image, of_jigsaw, method.config.jigsaw_weight)
    out = gradients(loss, f_raw=f_raw, patch_feat=patch_feat)
    method.after_update(progress())
    return {
        "loss": loss,
        "loss_image": of_image,
        "loss_jigsaw": of_jigsaw,
        "paper_nce_image": paper_image,
        "paper_nce_jigsaw": paper_jigsaw,
        "f_jig": jigsaw,
        **out,
        "memory_after": method.bank.rows,
    }


def pirl_vissl(case: Case) -> Outputs:
    a, ins = case.arguments, case.ins
    weights = a["loss_weights"]
    form = {"nce": "constant_nce", "cross_entropy": "softmax"}[a["loss_type"]]
    method = pirl_method(
        case,
        ins["x"].shape[2],
        loss=form,
        jigsaw_memory="updated",
        jigsaw_weight=weights[1] / sum(weights),
        epsilon=float(np.finfo(np.float32).eps),
    )
    steps = []
    names = ("x", "x_jig", "y", "idx", "idx_jig")
    for x, x_jig, y, idx, idx_jig in zip(*(ins[name] for name in names), strict=True):
        image, jigsaw = leaf(x), leaf(x_jig)
        losses = method.losses(unit(image), unit(jigsaw), y, idx[:, 1:], idx_jig[:, 1:])
        loss = torch.lerp(*losses, method.config.jigsaw_weight) * sum(weights)
        out = gradients(loss, x=image, x_jig=jigsaw)
        method.after_update(progress())
        z = method.constant.log_z.exp() if form == "constant_nce" else torch.tensor(-1.0)
        after = {"memory_after": method.bank.rows.clone(), "Z": z}
        steps.append({"loss": loss.detach(), **out, **after})
    return stacked(steps)


def infomin(case: Case) -> Outputs:
    a, ins = case.arguments, case.ins
    length, dim = ins["queue"].shape
    config = InfoMinConfig.build(
        {
            "hidden_dim": ins["head.fc1.0.weight"].shape[0],
            "output_dim": dim,
            "temperature": a["temperature"],
            "jigsaw_weight": a["beta"],
            "queue_length": length,
        }
    )
    method = InfoMin(Vectors(ins["patch_feat"].shape[1]), config).double()
    load_head(method.jigsaw, ins)
    method.queue.rows.copy_(ins["queue"])
    method.queue.written.fill_(int(ins["index"]))
    q_raw, patch_feat = leaf(ins["q_raw"]), leaf(ins["patch_feat"])
    query, jigsaw = unit(q_raw), unit(method.jigsaw(patches_in_order(patch_feat, ins["perm"])))
    of_crop, of_jigsaw = method.losses(query, jigsaw, ins["k"])
    loss = torch.lerp(of_crop, of_jigsaw, config.jigsaw_weight)
    logits, logits_jig = (
        info_nce_logits(q, ins["k"], method.queue.rows, temperature=config.temperature)
        for q in (query, jigsaw)
    )
    out = gradients(loss, q_raw=q_raw, patch_feat=patch_feat)
    method.queue.hold(ins["all_k"], torch.arange(len(ins["all_k"])))
    method.after_update(progress())
    return {
        "loss": loss,
        "loss_image": of_crop,
        "loss_jigsaw": of_jigsaw,
        "logits": logits,
        "logits_jig": logits_jig,
        **out,
        "queue_after": method.queue.rows,
        "index_after": np.array(method.queue.position),
    }
