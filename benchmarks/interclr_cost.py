"""What the inter-image branch costs: Table 4 of InterCLR (Xie et al., 2022, arXiv:2008.11702) anew.

Three trainings in one process do their steps in turns: the base method alone ("intra"), with the
branch whose labels follow every step ("online"), and with the branch whose labels come from k-means
before every epoch ("offline"). Each is `train.loop.fit` itself with one resident batch: everything
but the data. What does not happen in every step is measured by itself and spread over the steps:
the clustering of an epoch with its repair (offline), the repair every 100 steps (online). The
clustered rows are random, so k-means does all of its rounds. The first pass over the data, which
both have once in a training, is in neither. Memory is the peak of a process that does nothing else.

ResNet-18, 64 x 64, batch 64, 131,072 images, K = 4,096; with --gpu the paper's ResNet-50, 224 x
224, batch 256, ImageNet's number of images, K = 16,384, in bfloat16.

Run: OMP_NUM_THREADS=1 python -m benchmarks.interclr_cost --out benchmarks/results/interclr_cost.md
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.pairing import Ratio, Report, finish, paired, parser
from benchmarks.resident import (
    FULL,
    QUICK,
    Loop,
    Scale,
    extended,
    keep_memory,
    make_batch,
    make_objective,
    self_supervised,
    settings,
    state_bytes,
    units,
)

from scoutview.contract import Objective
from scoutview.methods import config_class
from scoutview.methods.inter_config import InterConfig
from scoutview.nn.banks import MemoryBank

PAPER = {
    "intra": ("5.6 GB", "2.6 days", "1"),
    "online": ("6.2 GB", "5 days", "1.93"),
    "offline": ("6.1 GB", "6.4 days", "2.46"),
}
"""Table 4: memory per GPU, time of 200 epochs, and that over the first line's; NPIDv2, 8 V100."""
GPU = Scale("resnet50", 224, 256, 1_281_167, 16_384, accelerator="gpu", precision="bf16-mixed")
MEMORY_STEPS = 3
PASSES = 3


@dataclass(frozen=True)
class Passes:
    """Seconds of what does not happen in every step."""

    clustering: float
    """K-means over the bank and repair, before every epoch."""
    repair: float


def objective_of(variant: str, method: str, scale: Scale) -> Objective:
    """Build the method, or the one that it extends."""
    config = config_of(variant, method, scale)
    name = method
    if variant == "intra":
        name, config = extended(config)
    return make_objective(name, config, scale)


def config_of(variant: str, method: str, scale: Scale) -> InterConfig:
    relabel = "offline" if variant == "offline" else "online"
    config = settings(method, scale, relabel=relabel)
    assert isinstance(config, InterConfig)
    return config


def measure(method: str, rounds: int, scale: Scale) -> Report:
    """Time the steps of all three side by side."""
    batch = make_batch(config_of("online", method, scale), scale)
    with ExitStack() as loops:
        sides = {
            variant: loops.enter_context(
                Loop(objective_of(variant, method, scale), batch, scale)
            ).step
            for variant in PAPER
        }
        return paired(
            f"interclr_cost {method}",
            f"training steps, {scale.text()}; ours is intra",
            sides,
            rounds=rounds,
            clock="wall" if scale.accelerator == "gpu" else "cpu",
        )


def bank_of(objective: Objective) -> MemoryBank:
    (bank,) = (part for part in objective.modules() if isinstance(part, MemoryBank))
    return bank


def measure_passes(method: str, scale: Scale) -> Passes:
    """Time the passes over the whole bank."""
    objective: Any = objective_of("offline", method, scale)
    torch.manual_seed(0)
    bank_of(objective).rows.copy_(units(*bank_of(objective).rows.shape))
    objective.to(scale.device)
    bank, inter = bank_of(objective), objective.inter
    rounds, clustering, repair = inter.config.kmeans_rounds, [], []

    def cluster(seed: int) -> None:
        inter.kmeans.cluster(bank, rounds=rounds, seed=seed)
        inter.kmeans.repair(bank)

    for seed in range(PASSES):
        clustering.append(seconds(lambda seed=seed: cluster(seed), scale))
        repair.append(seconds(lambda: inter.kmeans.repair(bank), scale))
    return Passes(median(clustering), median(repair))


def seconds(work: Callable[[], object], scale: Scale) -> float:
    """Time a call by the clock of the steps."""
    gpu = scale.accelerator == "gpu"
    now = time.perf_counter if gpu else time.process_time
    start = now()
    work()
    if gpu:
        torch.cuda.synchronize()
    return now() - start


def measure_memory(variant: str, method: str, scale: Scale) -> tuple[float, float]:
    """Find the peak memory of a process of its own, and what the method holds, in MB."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_alone, variant, method, scale).result()


def _alone(variant: str, method: str, scale: Scale) -> tuple[float, float]:
    torch.set_num_threads(1)
    objective: Any = objective_of(variant, method, scale)
    held = state_bytes(objective) / 1e6
    with Loop(objective, make_batch(config_of(variant, method, scale), scale), scale) as loop:
        for _ in range(MEMORY_STEPS):
            loop.step()
        if variant == "offline":
            objective.inter.kmeans.cluster(bank_of(objective), rounds=1)
        if variant != "intra":
            objective.inter.kmeans.repair(bank_of(objective))
    if scale.accelerator == "gpu":
        return torch.cuda.max_memory_allocated() / 1e6, held
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, held


def table(
    report: Report,
    passes: Passes,
    memory: dict[str, tuple[float, float]],
    every: int,
    scale: Scale,
) -> str:
    """Write one line per variant, the paper's figures beside ours."""
    intra_s = 1 / report.rates["intra"]
    spread = {
        "intra": 0.0,
        "online": passes.repair / every,
        "offline": passes.clustering / scale.steps_per_epoch,
    }  # seconds per step
    heads = ["", "peak memory", "of it state", "step", "epoch", "over intra [quartiles]"]
    heads += [f"paper: {head}" for head in ("memory", "200 epochs", "over intra")]
    lines = [f"| {' | '.join(heads)} |", "| :-- " + "| --: " * (len(heads) - 1) + "|"]
    for variant, paper in PAPER.items():
        found = report.ratios.get(variant, Ratio(1.0, 1.0, 1.0, 0))
        more = spread[variant] / intra_s
        ratio = Ratio(found.median + more, found.low + more, found.high + more, found.rounds)
        step = intra_s * ratio.median
        cells = [
            "intra" if variant == "intra" else f"+ inter, {variant}",
            *(f"{amount:,.0f} MB" for amount in memory[variant]),
            f"{1000 * step:.1f} ms",
            f"{step * scale.steps_per_epoch / 60:.1f} min",
            "1" if variant == "intra" else str(ratio),
            *paper,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TEXT = """# What the inter-image branch costs

{quick}Written by `python -m benchmarks.interclr_cost`, where it stands what the figures contain:
{method}, {scale}, {clusters:,} clusters, {negatives}{clock} without data. Control (intra against
itself): {control}{trust}.

{table}

Spread over the steps: k-means of an epoch with its repair, {clustering:.2f} s in {steps:,} steps
(offline); a repair, {repair:.3f} s every {every} steps (online). The paper's figures are those of
its Table 4: NPIDv2, ResNet-50, batch 256 on 8 V100.

{machine}
"""


def main() -> None:
    options = parser(__doc__, written="Markdown")
    extend = [n for n in self_supervised() if issubclass(config_class(n), InterConfig)]
    options.add_argument("--method", default="npid_v2_interclr", choices=extend)
    options.add_argument("--gpu", action="store_true", help="the paper's size, on a GPU")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    scale = GPU if chosen.gpu else QUICK if chosen.quick else FULL
    config: Any = config_of("online", chosen.method, scale)
    memory = {variant: measure_memory(variant, chosen.method, scale) for variant in PAPER}
    passes = measure_passes(chosen.method, scale)
    report = finish(measure(chosen.method, chosen.rounds, scale))
    k = getattr(config, "inter_negatives", None)
    text = TEXT.format(
        quick="**Quick form: not a result.** " if chosen.quick else "",
        method=chosen.method,
        scale=scale.text(),
        clusters=config.inter_clusters,
        negatives=f"K = {k:,}, " if k else "",
        clock="wall time" if chosen.gpu else "CPU time of one thread",
        control=report.control,
        trust="" if report.trustworthy else ", outside 0.98-1.02: **proves nothing**",
        table=table(report, passes, memory, config.refresh_every, scale),
        clustering=passes.clustering,
        steps=scale.steps_per_epoch,
        repair=passes.repair,
        every=config.refresh_every,
        machine=machine_text(report),
    )
    print(text)
    if chosen.out:
        Path(chosen.out).write_text(text, encoding="utf-8")


def machine_text(report: Report) -> str:
    """Name what ran it."""
    found = report.machine
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return (
        f"{gpu}{found['cpu']}, {found['cores']} cores, {found['threads']} threads, load"
        f" {found['load_before'][0]:.1f}, torch {found['versions']['torch']}, commit"
        f" {found['commit']}, {report.control.rounds} rounds."
    )


if __name__ == "__main__":
    main()
