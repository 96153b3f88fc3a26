"""Adapters of the methods that cluster the training set."""

from typing import Any

import torch
from tests.golden.case import Case, Vectors, gradients, leaf, progress
from torch import Tensor

from scoutview.methods import build, config_class


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
