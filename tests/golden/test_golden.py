"""Every golden case against the production code.

`ADAPTERS` is the one place that maps a folder of cases to a method. A folder whose method does not
exist yet is skipped; a case of an existing method that its adapter cannot run fails and names what
is missing. SCOUTVIEW_GOLDEN points the tests at another folder of cases.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.golden.adapters_banks import infomin, insdis, pirl
from tests.golden.adapters_clusters import deepcluster_v2, pcl, sela
from tests.golden.adapters_dense import pixpro
from tests.golden.adapters_energy import philipsen
from tests.golden.adapters_in_batch import moco, moco_v3, simsiam, vicreg, with_heads
from tests.golden.adapters_interclr import interclr
from tests.golden.adapters_schedules import schedule
from tests.golden.case import (
    Case,
    Given,
    MissingError,
    Named,
    Vectors,
    as_tensor,
    batch_of,
    gradients,
    leaf,
    load,
    progress,
)
from torch import Tensor, nn

from scoutview.base.errors import ConfigError
from scoutview.nn.clustering import sinkhorn
from scoutview.nn.losses.contrastive import nt_xent, nt_xent_logits
from scoutview.nn.losses.redundancy import cross_correlation
from scoutview.nn.losses.regression import normalized_regression
from scoutview.nn.losses.swapped import prototype_scores
from scoutview.nn.probe_solvers import knn_votes
from scoutview.nn.teacher import cosine_momentum, update_teacher
from scoutview.stats.delong import delong, paired_log10_p
from scoutview.train.optimizers import LARS, lars_form

ROOT = Path(os.environ.get("SCOUTVIEW_GOLDEN") or Path(__file__).parent)


# --- Adapters: a case in, outputs by name out ------------------------------------------------


def simclr(case: Case) -> dict[str, Any]:
    temperature = case.arguments["temperature"]
    if "hidden" not in case.ins:
        z1, z2 = leaf(case.ins["z1"]), leaf(case.ins["z2"])
        loss = nt_xent(z1, z2, temperature=temperature)
        logits, partner = nt_xent_logits(z1, z2, temperature=temperature)
        return {
            "loss": loss,
            "logits": positive_first(logits, partner),
            **gradients(loss, z1=z1, z2=z2),
        }
    hidden = leaf(case.ins["hidden"])
    z1, z2 = hidden.chunk(2)
    options = {"temperature": temperature, "normalise": case.arguments["hidden_norm"]}
    loss = nt_xent(z1, z2, **options, reduction="sum_of_views")
    logits, _ = nt_xent_logits(z1, z2, **options)
    n = len(z1)
    return {
        "loss_sum_of_halves": loss,
        "loss_mean_over_2N": nt_xent(z1, z2, **options),
        "logits_ab": logits[:n, n:],
        **gradients(loss, hidden=hidden),
    }


def positive_first(logits: Tensor, partner: Tensor) -> Tensor:
    """Bring the partner's column to the front and drop the anchor's own."""
    others = ~torch.isinf(logits)
    others.scatter_(1, partner[:, None], value=False)
    return torch.cat(
        [logits.gather(1, partner[:, None]), logits[others].view(len(logits), -1)], dim=1
    )


def byol(case: Case) -> dict[str, Any]:
    if "p1" in case.ins:
        p1, p2 = leaf(case.ins["p1"]), leaf(case.ins["p2"])
        method = with_heads("byol", case)
        method.predictor = Given(p1, p2)
        method.teacher_projector = Given(case.ins["t1"], case.ins["t2"])
        loss = method(batch_of(case.ins["t1"], case.ins["t2"]), progress()).loss
        return {
            "loss": loss,
            "per_sample_12": normalized_regression(p1, case.ins["t2"]),
            **gradients(loss, p1=p1, p2=p2),
        }
    target = nn.ParameterList([nn.Parameter(case.ins["target"].clone())])
    momenta, after = [], []
    for step, weight in zip(case.ins["steps"].tolist(), case.ins["online"], strict=True):
        momenta.append(
            cosine_momentum(case.arguments["tau_base"], step / case.arguments["total_steps"])
        )
        update_teacher(target, nn.ParameterList([nn.Parameter(weight)]), momenta[-1])
        after.append(target[0].detach().clone())
    return {"tau": np.array(momenta), "target_after": torch.stack(after)}


def barlow_twins(case: Case) -> dict[str, Any]:
    z1, z2 = leaf(case.ins["z1"]), leaf(case.ins["z2"])
    eps = case.arguments["bn_eps"]
    settings = {"off_diagonal": case.arguments["lambd"], "variance_eps": eps}
    loss = with_heads("barlow_twins", case, **settings)(batch_of(z1, z2), progress()).loss
    c = cross_correlation(z1, z2, eps=eps)
    return {"loss": loss, "c": c, **gradients(loss, z1=z1, z2=z2)}


def swav(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    if "scores" in ins:
        options = {"epsilon": a["epsilon"], "iterations": a["iterations"]}
        fast = sinkhorn(ins["scores"], **options)
        slow = sinkhorn(ins["scores"], **options, log_domain=True)
        np.testing.assert_allclose(fast, slow, rtol=1e-8, atol=1e-10)
        return {"q": fast}
    method = swav_method(case)
    paper = swav_method(case, loss_reduction="sum")
    collected: dict[str, list[Tensor]] = {
        name: [] for name in ("loss", "paper_loss", "q", "grad_embedding", "grad_prototypes")
    }
    normalised = method.prototypes.detach().clone()
    for step, embedding in enumerate(ins["embedding"]):
        open_queues(method)
        open_queues(paper)
        crops = leaf(embedding)
        views = crops.view(sum(a["nmb_crops"]), -1, crops.shape[1])
        loss, _ = method.swapped_loss(views, progress(step))
        scores = prototype_scores(views.detach().flatten(0, 1), normalised)
        scores = scores.view(len(views), -1, len(normalised))
        q = [method._assign(i, scores[v]) for i, v in enumerate(a["crops_for_assign"])]
        grads = gradients(loss, embedding=crops, prototypes=method.prototypes)
        values = {"loss": loss.detach(), "q": torch.stack(q), **grads}
        values["paper_loss"] = paper.swapped_loss(views, progress(step))[0].detach()
        for name, value in values.items():
            collected[name].append(value)
        method.after_update(progress(step))
        paper.after_update(progress(step))
    out = {name: torch.stack(values) for name, values in collected.items()}
    out["prototypes_normalised"] = normalised
    if "queue" in ins:
        out["queue_after"] = torch.stack([queue.ordered() for queue in method.queues])
    return out


def open_queues(method: Any) -> None:
    """Use every queue from the first full one on, as the reference does; ours wait one by one."""
    full = [queue.is_full for queue in method.queues]
    for queue in method.queues[full.index(True) :] if any(full) else ():
        queue.rows.copy_(queue.ordered())
        queue.written.fill_(len(queue))


def swav_method(case: Case, loss_reduction: str = "mean") -> Any:
    from scoutview.methods.swav import SwAV, SwAVConfig

    a, ins = case.arguments, case.ins
    prototypes, dim = ins["prototypes"].shape
    config = SwAVConfig.build(
        {
            "output_dim": dim,
            "prototypes": prototypes,
            "temperature": a["temperature"],
            "epsilon": a["epsilon"],
            "sinkhorn_iterations": a["iterations"],
            "assigned_views": tuple(a["crops_for_assign"]),
            "queue_length": a["queue_length"] if "queue" in ins else 0,
            "queue_from_epoch": 0,
            "frozen_epochs": 1e6 if a["frozen_prototypes"] else 0,
            "loss_reduction": loss_reduction,
        }
    )
    method = SwAV(Vectors(dim), config).double()
    method.prototypes.data.copy_(ins["prototypes"])
    method.after_update(progress())  # brings the prototypes to unit length
    for queue, rows in zip(method.queues, ins.get("queue", []), strict=True):
        queue.rows.copy_(rows)
        used = int((rows != 0).any(dim=1).sum())
        # A full queue has been written a whole number of times, so that its newest row is row 0.
        queue.written.fill_(len(rows) if used == len(rows) else 0)
        if 0 < used < len(rows):
            queue.rows.copy_(rows.roll(-used, dims=0))
            queue.written.fill_(used)
    return method


def lars(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    count = sum(name.startswith("param_") for name in ins)
    weights = [nn.Parameter(ins[f"param_{i}"].clone()) for i in range(count)]
    kind = a.get("kind", "classic")
    variant = {"classic": "classic", "barlow": "pytorch", "larc": "larc"}.get(kind)
    if variant is None:
        raise MissingError(f"a LARS variant of kind {kind!r}")
    popular = kind == "classic" and not a["classic_momentum"]
    form = (
        {"scaled": "update"}
        if popular
        else {**lars_form(variant), "clip": kind == "larc" and bool(a["clip"])}
    )
    if kind == "classic":
        patterns = a["excluded_patterns"] or ()
        kept = [not any(re.search(p, name) for p in patterns) for name in a["names"]]
    else:
        kept = [kind == "larc" or weight.ndim != 1 for weight in weights]
    decay = a["weight_decay"]
    groups = [
        {"params": [w], "adapt": keep, "weight_decay": decay if keep else 0.0}
        for w, keep in zip(weights, kept, strict=True)
    ]
    optimizer = LARS(
        groups,
        lr=0.0,
        momentum=a["momentum"],
        trust_coefficient=a.get("trust_coefficient", a.get("eeta")),
        nesterov=a.get("nesterov", False),
        **form,
    )
    after: dict[str, list[Tensor]] = {f"params_{i}": [] for i in range(count)}
    for step in range(a["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = float(ins["lr"][step]) if "lr" in ins else a["lr"]
        for i, weight in enumerate(weights):
            weight.grad = ins[f"grads_{i}"][step].clone()
        optimizer.step()
        for i, weight in enumerate(weights):
            after[f"params_{i}"].append(weight.detach().clone())
    return {name: torch.stack(values) for name, values in after.items()}


def knn(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    targets = nn.functional.one_hot(ins["train_labels"], a["classes"])
    votes = knn_votes(ins["train"], targets, ins["test"], k=a["K"], temperature=a["sigma"])
    top1 = (votes.argmax(dim=1) == ins["test_labels"]).double().mean()
    return {"votes": votes, "top1": top1}


def delong_case(case: Case) -> dict[str, Any]:
    from scoutview.stats.comparison import paired_delong

    labels, a, b = (case.ins[name].numpy() for name in ("labels", "scores_a", "scores_b"))
    found = delong(labels, np.stack([a, b]))
    p = paired_delong(labels, a, b).p
    return {
        "auc": found.auc,
        "covariance": found.covariance,
        "var_a": found.covariance[0, 0],
        "var_b": found.covariance[1, 1],
        "p": p,
        "log10_p": paired_log10_p(labels, a, b),
    }


ADAPTERS: dict[str, tuple[str, Callable[[Case], dict[str, Any]]]] = {
    "insdis": ("insdis", insdis),
    "pirl": ("pirl", pirl),
    "infomin": ("infomin", infomin),
    "simclr": ("simclr", simclr),
    "moco": ("moco_v1 moco_v2", moco),
    "moco_v3": ("moco_v3", moco_v3),
    "simsiam": ("simsiam", simsiam),
    "vicreg": ("vicreg", vicreg),
    "byol": ("byol", byol),
    "barlow_twins": ("barlow_twins", barlow_twins),
    "swav": ("swav", swav),
    "pixpro": ("pixpro", pixpro),
    "interclr": ("moco_v2_interclr", interclr),
    "deepcluster_v2": ("deepcluster_v2", deepcluster_v2),
    "pcl": ("pcl_v1 pcl_v2", pcl),
    "sela": ("sela_v2", sela),
    "philipsen": ("views.energy_bands", philipsen),
    "lars": ("train.optimizers", lars),
    "schedules": ("train.schedules", schedule),
    "knn": ("nn.probe_solvers", knn),
    "delong": ("stats.delong", delong_case),
}
"""Folder of cases: what it tests (methods by name, separated by spaces), and how."""


def cases() -> list[Path]:
    return sorted(ROOT.glob("*/*.json"))


@pytest.mark.parametrize("file", cases(), ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_golden__production_code_gives_the_published_numbers(file: Path):
    folder = file.parent.name
    if folder not in ADAPTERS:
        if folder in existing_names():
            pytest.fail(f"{folder} exists but has no adapter in ADAPTERS; add one.")
        pytest.skip(f"no method {folder!r} yet")
    method, adapter = ADAPTERS[folder]
    case, tolerance = load(file)
    try:
        actual = adapter(case)
    except MissingError as error:
        pytest.fail(f"{method} cannot run {folder}/{file.stem}: missing {error}")
    except ConfigError as error:
        pytest.fail(f"{method} refuses the settings of {folder}/{file.stem}: {error}")
    missing = sorted(set(case.outs) - set(actual))
    assert not missing, f"{method} does not compute {', '.join(missing)} of {folder}/{file.stem}"
    for name, expected in case.outs.items():
        value = actual[name]
        value = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        np.testing.assert_allclose(
            value, expected, **tolerance, err_msg=f"{folder}/{file.stem}: {name}"
        )


def existing_names() -> set[str]:
    from scoutview.methods import METHODS

    return set(METHODS)


def test_golden__there_are_cases():
    assert cases(), (
        f"no case under {ROOT}; set SCOUTVIEW_GOLDEN to a folder of <method>/<case>.json"
    )


def test_adapters__cover_every_folder_of_an_existing_method():
    """Or the method's page says why there is none."""
    covered = {name for names, _ in ADAPTERS.values() for name in names.split()}
    pages = Path(__file__).parents[2] / "docs" / "methods"
    for name in sorted(existing_names()):
        text = (pages / f"{name}.md").read_text(encoding="utf-8")
        assert (name in covered) != ("No golden cases: " in text), name


def step_with_one_prototype() -> Case:
    """A step of the method whose only cluster takes every image with certainty."""
    source, _ = load(Path(__file__).parent / "swav" / "step_multicrop.json")
    first = Named("input", {**source.ins, "prototypes": source.ins["prototypes"][:1]})
    return Case(source.arguments, first, source.outs)


def test_swav__runs_a_step_with_one_prototype():
    out = swav(step_with_one_prototype())
    for name in ("loss", "paper_loss", "grad_embedding", "grad_prototypes"):
        np.testing.assert_allclose(out[name], 0.0, atol=1e-12)  # log softmax of one score is 0
    np.testing.assert_allclose(out["q"], 1.0, rtol=1e-12)


def test_delong__log10_p_stays_exact_where_p_underflows():
    labels = as_tensor(np.repeat([0.0, 1.0], 4000))
    noise = as_tensor(np.random.default_rng(0).normal(size=(2, 8000)))
    ins = {"labels": labels, "scores_a": noise[0] + 3 * labels, "scores_b": noise[1]}
    out = delong_case(Case(Named("argument", {}), Named("input", ins), Named("output", {})))
    assert out["p"] == 0.0
    variance = np.array([1.0, -1.0]) @ out["covariance"] @ np.array([1.0, -1.0])
    z = float((out["auc"][0] - out["auc"][1]) / np.sqrt(variance))
    # p = 2 phi(z) / z (1 - 1/z^2 + 3/z^4 - ...), Abramowitz and Stegun 26.2.12
    log_tail = -(z**2) / 2 - np.log(z * np.sqrt(2 * np.pi)) + np.log1p(-(z**-2) + 3 * z**-4)
    assert z > 40
    np.testing.assert_allclose(out["log10_p"], (np.log(2) + log_tail) / np.log(10), rtol=1e-9)


def copied(folder: Path, name: str, **changes: Any) -> Path:
    """Copy a case with other arguments; None leaves one out."""
    source = Path(__file__).parent / name
    meta = json.loads(source.read_text())
    values = {**meta["arguments"], **changes}
    meta["arguments"] = {k: v for k, v in values.items() if v is not None}
    target = folder / name
    target.parent.mkdir()
    target.write_text(json.dumps(meta))
    shutil.copy(source.with_suffix(".npz"), target.with_suffix(".npz"))
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": None}, "cannot run swav/step_multicrop: missing argument 'temperature'"),
        ({"temperature": -1.0}, "refuses the settings of swav/step_multicrop: .*temperature"),
    ],
)
def test_harness__names_what_is_missing_or_refused(changes, message, tmp_path):
    file = copied(tmp_path, "swav/step_multicrop.json", **changes)
    with pytest.raises(pytest.fail.Exception, match=message):
        test_golden__production_code_gives_the_published_numbers(file)
