"""Adapter of InterCLR: negatives, margins, memory and small clusters of the inter branch."""

from typing import Any

import torch
from tests.golden.case import Case, Vectors, batch_of, gradients, leaf, progress
from torch import Tensor, nn

from scoutview.methods.moco_v2_interclr import MoCoV2InterCLR, MoCoV2InterCLRConfig
from scoutview.nn.banks import MemoryBank
from scoutview.nn.losses.margin import margin_nce
from scoutview.nn.negatives import nearest_rows, negatives_log_sum_exp
from scoutview.nn.online_kmeans import OnlineKMeans
from scoutview.nn.precision import unit

Outputs = dict[str, Any]


def interclr(case: Case) -> Outputs:
    if "ind" in case.ins:
        return memory_update(case)
    if "sizes" in case.arguments:
        return small_clusters(case)
    return intra(case) if "queue" in case.ins else inter(case)


def margins(case: Case) -> dict[str, float]:
    arc = case.arguments["arc_margin"] or 0.0
    return {"margin": case.arguments["cosine_margin"] or 0.0, "arc_margin": arc}


def intra(case: Case) -> Outputs:
    """One forward pass of the method, whose branch of clusters is still off."""
    a, ins = case.arguments, case.ins
    dim, length = ins["queue"].shape
    given = margins(case)
    config = MoCoV2InterCLRConfig.build(
        {
            "output_dim": dim,
            "queue_length": length,
            "temperature": a["temperature"],
            "intra_margin": given["arc_margin"] or given["margin"],
            "margin_form": "arc" if given["arc_margin"] else "cosine",
            "inter_clusters": 2,
            "inter_from_epoch": 1,
        }
    )
    method = MoCoV2InterCLR(Vectors(dim), config, dataset_size=100).double()
    method.base.projector, method.base.teacher_projector = nn.Identity(), nn.Identity()
    method.base.queue.rows.copy_(ins["queue"].T)
    query = leaf(ins["q"])
    loss = method(batch_of(query, ins["k"]), progress()).loss
    return {"loss": loss, **gradients(loss, q=query)}


def inter(case: Case) -> Outputs:
    a, ins = case.arguments, case.ins
    query, bank, labels = leaf(ins["q"]), ins["feature_bank"], ins["label_bank"]
    own = labels[ins["idx"]]
    asking = unit(query)
    cosine = (asking * bank[ins["pos_idx"]]).sum(dim=1)
    if a["sampling"] == "hard":
        total, count = negatives_log_sum_exp(
            asking,
            bank,
            labels,
            own=own,
            others=(labels != own[:, None]).sum(dim=1),
            count=a["K"],
            temperature=a["temperature"],
            sampling="hard",
        )
        assert count.tolist() == [a["K"]] * len(own)
        near = nearest_rows(asking, bank, a["K"], labels=labels, own=own)
        extra = {"neg_idx": near}
    else:  # the drawn rows are an input
        listed = (bank[ins["neg_idx"]] * asking[:, None]).sum(dim=2)
        total = torch.logsumexp(listed / a["temperature"], dim=1)
        pool = sampling_pool(case, asking)
        extra = {} if a["sampling"] == "random" else {"pool": pool.sort(dim=1).values}
        whole_pool_stands_for_draws(case, asking, pool)
    loss = margin_nce(cosine, total, temperature=a["temperature"], **margins(case)).mean()
    return {"loss": loss, **gradients(loss, q=query), **extra}


def sampling_pool(case: Case, asking: Tensor) -> Tensor:
    """Rows of the bank that negatives are drawn from, own cluster included, (B, P) int64."""
    bank, sampling = case.ins["feature_bank"], case.arguments["sampling"]
    if sampling == "random":
        return torch.arange(len(bank)).expand(len(asking), -1)
    side = -asking if sampling == "semieasy" else asking
    return nearest_rows(side, bank, case.arguments["pool"])


def whole_pool_stands_for_draws(case: Case, asking: Tensor, pool: Tensor) -> None:
    """Compare the production sampler with the rows that it should see, (B, P) int64.

    The reference draws K of the pool's images of other clusters; production weighs all of them as
    K, which is the mean over such draws.
    """
    a, bank, labels = case.arguments, case.ins["feature_bank"], case.ins["label_bank"]
    own = labels[case.ins["idx"]]
    total, count = negatives_log_sum_exp(
        asking,
        bank,
        labels,
        own=own,
        others=(labels != own[:, None]).sum(dim=1),
        count=a["K"],
        temperature=a["temperature"],
        sampling=a["sampling"],
        pool=a["pool"] / len(bank),
        pool_of="bank",
    )
    assert count.tolist() == [a["K"]] * len(own)
    other = labels[pool] != own[:, None]  # (B, P)
    similar = torch.exp((bank[pool] * asking[:, None]).sum(dim=2) / a["temperature"])
    mean = (similar * other).sum(dim=1) / other.sum(dim=1)
    torch.testing.assert_close(total, (a["K"] * mean).log())
    drawn = (case.ins["neg_idx"][:, :, None] == pool[:, None, :]) & other[:, None, :]
    assert bool(drawn.any(dim=2).all()), "the reference drew what production would not"


def clustered(features: Tensor, labels: Tensor, clusters: int, **options: Any) -> Any:
    bank = MemoryBank(*features.shape).double()
    bank.rows.copy_(unit(features))
    found = OnlineKMeans(*features.shape, clusters, distance="dot", **options).double()
    found.start(bank, labels)
    return bank, found


def memory_update(case: Case) -> Outputs:
    a, ins = case.arguments, case.ins
    bank, clusters = clustered(ins["features_init"], ins["labels"], a["num_classes"])
    out = {
        "feature_bank_init": bank.rows.clone(),
        "centroids_init": clusters.centroids.clone(),
    }
    old = bank.read(ins["ind"])
    bank.write(ins["ind"], unit(ins["feature"]), momentum=a["momentum"])
    out["change_ratio"] = clusters.update(ins["ind"], old, bank.read(ins["ind"]))
    out["labels_after"] = clusters.labels.long()
    torch.testing.assert_close(clusters.centroids, recomputed(clusters, bank))
    return out | {"feature_bank": bank.rows, "centroids_after": clusters.centroids}


def recomputed(clusters: OnlineKMeans, bank: MemoryBank) -> Tensor:
    running = clusters.centroids.clone()
    clusters.refresh(bank)
    exact = clusters.centroids.clone()
    clusters.centroids.copy_(running)
    return exact


def small_clusters(case: Case) -> Outputs:
    a, ins = case.arguments, case.ins
    bank, clusters = clustered(
        ins["features"], ins["labels"], len(a["sizes"]), smallest=1, smallest_half=1
    )
    clusters.smallest = a["min_cluster"]  # the case may have too few rows for all clusters
    clusters.redistribute(bank)
    labels, expected = clusters.labels.long(), torch.from_numpy(case.outs["labels_after"])
    order = torch.arange(len(a["sizes"]))
    order[labels] = expected  # which half keeps its number is arbitrary
    return {"labels_after": order[labels], "centroids_after": clusters.centroids[order.argsort()]}
