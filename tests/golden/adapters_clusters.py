"""Adapters of the methods that cluster the training set."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from tests.golden.case import Case, Vectors, batch_of, gradients, leaf, progress
from torch import Tensor, nn

from scoutview.methods import build, config_class
from scoutview.nn.kmeans import Clusters, nearest
from scoutview.nn.losses.clusters import proto_nce_logits
from scoutview.nn.partition import equal_partition
from scoutview.nn.prototype_sets import PrototypeSet, concentration


def deepcluster_v2(case: Case) -> dict[str, Any]:
    return deepcluster_v2_clusters(case) if "memory" in case.ins else deepcluster_v2_steps(case)


def deepcluster_v2_method(case: Case, images: int, **settings: Any) -> Any:
    a = case.arguments
    values = {"output_dim": a["d"], "clusters": tuple(a["heads"]), **settings}
    config = config_class("deepcluster_v2").build(values)
    return build("deepcluster_v2", Vectors(a["d"]), config, dataset_size=images).double()


def deepcluster_v2_clusters(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    crops = a["n_memory_crops"]
    method = deepcluster_v2_method(
        case,
        a["n_dataset"],
        memory_views=tuple(range(crops)),
        kmeans_rounds=a["kmeans_iters"],
    )
    method.memory.rows[:, ins["memory_index"]] = ins["memory"]
    method.memory.filled[ins["memory_index"]] = True
    heads = range(len(a["heads"]))
    method.cluster(0, start=[ins["memory"][h % crops][ins[f"init_rows_{h}"]] for h in heads])
    centroids = {f"centroids_{h}": method.prototypes[h] for h in heads}
    return {"assignments": method.assignments, **centroids}


def deepcluster_v2_steps(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    method = deepcluster_v2_method(
        case,
        ins["assignments"].shape[1],
        temperature=a["temperature"],
        memory_views=tuple(a["crops_for_assign"]),
    )
    method.assignments.copy_(ins["assignments"])
    for head, prototypes in enumerate(method.prototypes):
        prototypes.copy_(ins[f"prototypes_{head}"])
    collected: dict[str, list[Tensor]] = {"loss": [], "grad_embedding": []}
    for step, (embedding, rows) in enumerate(zip(ins["embedding"], ins["index"], strict=True)):
        crops = leaf(embedding)
        loss = method.cluster_loss(crops.view(sum(a["nmb_crops"]), a["bs"], -1), rows)
        collected["loss"].append(loss.detach())
        collected["grad_embedding"].append(gradients(loss, embedding=crops)["grad_embedding"])
        method.after_update(progress(step))
    order = ins["index"].flatten()  # the reference writes in the order of the loader, we by row
    return {
        **{name: torch.stack(values) for name, values in collected.items()},
        "memory_after": method.memory.rows[:, order],
        "memory_index_after": order[method.memory.filled[order]],
    }


def pcl(case: Case) -> dict[str, Any]:
    if "im_q" in case.ins:
        return pcl_step(case)
    if "raw_centroids_0" in case.ins:
        return pcl_concentration(case)
    return pcl_kmeans(case)


REFERENCE_PERCENTILES = (10.0, 90.0)


def pcl_concentration(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    features = ins["features"]
    out: dict[str, Any] = {}
    for m in range(len(a["num_cluster"])):
        centroids = ins[f"raw_centroids_{m}"]
        assignment, _ = nearest(features, centroids)
        counts = torch.bincount(assignment, minlength=len(centroids))
        given = Clusters(centroids, assignment, counts, torch.zeros(()))
        phi = concentration(
            features,
            given,
            temperature=a["temperature"],
            smoothing=a["alpha"],
            percentiles=tuple(a["clip_percentiles"]),
        )
        out[f"assign_{m}"], out[f"phi_{m}"] = assignment, phi
        out[f"centroids_{m}"] = nn.functional.normalize(centroids, dim=1)
    return out


def pcl_kmeans(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    features = ins["features"]
    torch.manual_seed(0)
    prototypes = PrototypeSet(a["num_cluster"][0], a["C"], a["N"]).double()
    prototypes.fit(
        torch.arange(a["N"]),
        features,
        epoch=0,
        temperature=a["temperature"],
        rounds=20,
        restarts=50,
        percentiles=REFERENCE_PERCENTILES,
    )
    ours, theirs = prototypes.assignment, torch.from_numpy(case.outs["assign"])
    name = torch.full((len(prototypes),), -1)  # the reference's number of each of our clusters
    name[ours] = theirs
    order = name.argsort()
    return {
        "assign": name[ours],
        "phi": prototypes.concentration[order],
        "centroids": prototypes.prototypes[order],
        "adjusted_rand": np.array(adjusted_rand_score(ins["true_group"], ours)),
    }


def pcl_step(case: Case) -> dict[str, Any]:
    a, ins = case.arguments, case.ins
    config = config_class("pcl_v1").build(
        {
            "output_dim": a["C"],
            "temperature": a["temperature"],
            "momentum": a["momentum"],
            "queue_length": a["r"],
            "clusters": tuple(a["num_cluster"]),
            "negative_prototypes": a["r"],
            "prototype_warmup": 0.0,
            "prototype_negatives": "batch",
        }
    )
    method: Any = build("pcl_v1", Vectors(a["D"]), config, dataset_size=a["M"]).double()
    for part, name in ((method.projector, "q"), (method.teacher_projector, "k")):
        part[0].weight.data.copy_(ins[f"enc_{name}_weight"])
        part[0].bias.data.copy_(ins[f"enc_{name}_bias"])
    method.queue.rows.copy_(ins["queue"].T)
    method.after_update(progress())  # the reference moves the teacher before the step
    teacher_now = method.teacher_projector[0].weight.clone()
    for m, prototypes in enumerate(method.prototypes):
        prototypes.prototypes.copy_(ins[f"prototypes_{m}"])
        prototypes.concentration.copy_(ins[f"phi_{m}"])
        prototypes.assignment.copy_(ins[f"im2cluster_{m}"])
        drawn = prototypes.draw(  # ours are legal too; the loss gets those of the case
            prototypes.assignment[ins["index"]], step=0, count=a["r"], outside_batch=True
        )
        assert len(drawn) == min(a["r"], len(prototypes) - len(ins["index"]))
        assert not set(drawn.tolist()) & set(prototypes.assignment[ins["index"]].tolist())
        prototypes.draw = lambda *_, m=m, **__: ins[f"neg_proto_{m}"]
    view = leaf(ins["im_q"])
    batch = replace(batch_of(view, ins["im_k"]), rows=ins["index"])
    out = method(batch, progress())
    weight = method.projector[0].weight
    grads = gradients(out.loss, im_q=view, enc_q_weight=weight)
    with torch.no_grad():
        query = nn.functional.normalize(method.projector(view), dim=1)
        logits = {
            f"logits_proto_{m}": proto_nce_logits(
                query,
                p.prototypes,
                p.concentration,
                p.assignment[ins["index"]],
                ins[f"neg_proto_{m}"],
                in_batch=True,
            )[0]
            for m, p in enumerate(method.prototypes)
        }
    method.after_update(progress())
    return {
        "loss": out.loss,
        "loss_instance": out.logs["instance_loss"],
        "loss_proto": out.logs["prototype_loss"],
        "queue_after": method.queue.rows.T,
        "enc_k_weight_after": teacher_now,
        **grads,
        **logits,
    }


def sela(case: Case) -> dict[str, Any]:
    scaled = case.arguments["lamb"] * case.ins["probs"].log()
    found = equal_partition(lambda: scaled.split(7), tolerance=case.arguments["stop"])
    plan = (scaled + found.log_rows[:, None] + found.log_labels).exp()
    return {"labels": found.labels, "plan": plan}
