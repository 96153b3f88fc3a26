"""Adapters of the methods that compare a batch with itself or with a queue."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tests.golden.case import Case, Given, Vectors, batch_of, gradients, leaf, progress
from torch import Tensor, nn

from scoutview.methods import build, config_class
from scoutview.nn.losses.contrastive import in_batch_info_nce, info_nce_logits
from scoutview.nn.losses.redundancy import vicreg_terms


def moco(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    dim, queue_length = ins["queue"].shape
    name = "moco_v2" if a["mlp_head"] else "moco_v1"
    config = config_class(name).build(
        {
            "hidden_dim": ins["enc_q_0"].shape[0],
            "output_dim": dim,
            "temperature": a["temperature"],
            "momentum": a["momentum"],
            "queue_length": queue_length,
        }
    )
    method: Any = build(name, Vectors(ins["im_q"].shape[2]), config, dataset_size=1000).double()
    student, teacher = method.projector, method.teacher_projector
    if not a["bias"]:
        for layer in (*student[::2], *teacher[::2]):
            layer.register_parameter("bias", None)
    for i, (s, t) in enumerate(zip(student.parameters(), teacher.parameters(), strict=True)):
        s.data.copy_(ins[f"enc_q_{i}"])
        t.data.copy_(ins[f"enc_k_{i}"])
    method.queue.rows.copy_(ins["queue"].T)
    method.queue.written.fill_(int(ins["queue_ptr"].reshape(())))
    out: dict[str, list[Tensor]] = {"loss": [], "logits": [], "grad_im_q": []}
    teacher_now: list[Tensor] = []
    for step, (im_q, im_k) in enumerate(zip(ins["im_q"], ins["im_k"], strict=True)):
        method.after_update(progress(step))  # the reference moves the teacher before each step
        teacher_now = [t.detach().clone() for t in teacher.parameters()]
        view = leaf(im_q)
        batch = batch_of(view, im_k)
        batch = replace(batch, rows=batch.rows + step * len(view))  # each step has new images
        loss = method(batch, progress(step)).loss
        with torch.no_grad():
            query = nn.functional.normalize(student(im_q), dim=1)
            (key, _), queue = method.queue.held[0], method.queue.rows
            logits = info_nce_logits(query, key, queue, temperature=a["temperature"])
        method.zero_grad()
        loss.backward()
        out["loss"].append(loss.detach())
        out["logits"].append(logits)
        out["grad_im_q"].append(view.grad)
    method.after_update(progress())
    return {
        **{name: torch.stack(values) for name, values in out.items()},
        "queue_after": method.queue.rows.T,
        "queue_ptr_after": np.array([method.queue.position]),
        **{f"grad_enc_q_{i}": s.grad for i, s in enumerate(student.parameters())},
        **{f"enc_k_after_{i}": t for i, t in enumerate(teacher_now)},
    }


def simsiam(case: Case) -> dict[str, Any]:
    p1, p2 = leaf(case.ins["p1"]), leaf(case.ins["p2"])
    method = with_heads("simsiam", case, projector=("z1", "z2"))
    method.predictor = Given(p1, p2)
    loss = method(batch_of(case.ins["z1"], case.ins["z2"]), progress()).loss
    return {"loss": loss, **gradients(loss, p1=p1, p2=p2)}


def with_heads(name: str, case: Case, *, projector: tuple[str, ...] = (), **settings: Any) -> Any:
    """A method whose network is left out and whose projector gives inputs of the case."""
    dim = case.arguments["C"]
    config = config_class(name).build({"hidden_dim": 1, **settings})
    method: Any = build(name, Vectors(dim), config, dataset_size=1000)
    method.projector = Given(*(case.ins[z] for z in projector)) if projector else nn.Identity()
    return method


def vicreg(case: Case) -> dict[str, Any]:
    """Both forms through the method, whose networks are left out."""
    a, x, y = case.arguments, leaf(case.ins["x"]), leaf(case.ins["y"])
    losses = {}
    for form in ("equations", "code"):
        config = config_class("vicreg").build(
            {
                "invariance": a["sim_coeff"],
                "variance": a["std_coeff"],
                "covariance": a["cov_coeff"],
                "target_std": a["gamma"],
                "variance_eps": a["eps"],
                "loss_form": form,
                "hidden_dim": 1,
            }
        )
        method: Any = build("vicreg", Vectors(a["C"]), config, dataset_size=1000)
        method.projector = nn.Identity()
        losses[form] = method(batch_of(x, y), progress()).loss
    invariance, variance, covariance = vicreg_terms(x, y, gamma=a["gamma"], eps=a["eps"])
    return {
        "loss": losses["code"],
        "paper_loss": losses["equations"],
        "sim": invariance / a["C"],
        "std": variance / 2,
        "cov": covariance,
        **gradients(losses["code"], x=x, y=y),
    }


def moco_v3(case: Case) -> dict[str, Any]:
    temperature = case.arguments["temperature"]
    q1, q2 = leaf(case.ins["q1"]), leaf(case.ins["q2"])
    method = with_heads("moco_v3", case, temperature=temperature)
    method.predictor = Given(q1, q2)
    method.teacher_projector = Given(case.ins["k1"], case.ins["k2"])
    loss = method(batch_of(case.ins["k1"], case.ins["k2"]), progress()).loss
    return {
        "loss": loss,
        "loss_q1_k2": in_batch_info_nce(q1, case.ins["k2"], temperature=temperature),
        "loss_q2_k1": in_batch_info_nce(q2, case.ins["k1"], temperature=temperature),
        **gradients(loss, q1=q1, q2=q2),
    }
