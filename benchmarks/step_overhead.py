"""Our whole training step beside a bare forward, backward and optimiser step of the same networks.

Ours is `train.loop.fit` itself, with metrics, collapse monitor and progress, fed with one resident
batch: everything but the data. The floor runs the same networks (backbone, heads, teacher) on the
same views, weighs their outputs, goes backward and steps the same fused SGD. ResNet-18, 64 x 64,
3 channels, batch 64, two views.

Run: OMP_NUM_THREADS=1 python benchmarks/step_overhead.py --out step_overhead.json
"""

import copy
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from benchmarks.pairing import Report, finish, paired, parser
from torch import Tensor, nn

from scoutview.contract import Objective
from scoutview.data.batch import Batch
from scoutview.methods import build, config_class
from scoutview.methods.config import MethodConfig
from scoutview.nn.backbones import BackboneConfig, build_backbone
from scoutview.nn.optim_config import SGDConfig
from scoutview.results.run import RunFolder
from scoutview.train.config import FitConfig
from scoutview.train.devices import start_fabric
from scoutview.train.loop import fit
from scoutview.train.monitor import CollapseMonitor
from scoutview.train.optimizers import build_optimizer
from scoutview.views.policy import MultiCrop

DATASET = 131_072
MOST = {"simclr": 1.02, "byol": 1.02, "barlow_twins": 1.02, "moco_v2": 1.03, "swav": 1.12}
"""Bars: time of our step over the floor's."""
SGD = SGDConfig(lr=0.003, lr_per=None)
Floor = Callable[[nn.Module, Batch], Tensor]


def settings(name: str, size: int) -> MethodConfig:
    kind = config_class(name)
    if name == "swav":
        views = MultiCrop(counts=(2,), sizes=(size,), scales=((0.14, 1.0),))
        return kind(views=views, prototypes=3000, queue_length=3840, queue_from_epoch=0)
    if name == "barlow_twins":
        return kind(hidden_dim=2048, output_dim=2048)  # 8,192 would hide the rest on one core
    return kind()


def bare_loss(outputs: Tensor) -> Tensor:
    """A loss of fixed random weights: a plain sum has no gradient through batch norm."""
    generator = torch.Generator().manual_seed(0)
    return (outputs * torch.randn(outputs.shape, generator=generator)).mean()


def both_views(m: nn.Module, batch: Batch) -> Tensor:
    return bare_loss(m.projector(m.backbone(torch.cat(batch.views))))


def views_alone(m: nn.Module, batch: Batch) -> Tensor:
    return sum(bare_loss(m.projector(m.backbone(view))) for view in batch.views)


def student_and_teacher(m: nn.Module, batch: Batch) -> Tensor:
    total = sum(bare_loss(m.predictor(m.projector(m.backbone(v)))) for v in batch.views)
    with torch.no_grad():
        for view in batch.views:
            m.teacher_projector(m.teacher_backbone(view))
    return total


def query_and_key(m: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        m.teacher_projector(m.teacher_backbone(batch.views[1]))
    return bare_loss(m.projector(m.backbone(batch.views[0])))


FLOORS: dict[str, Floor] = {
    "simclr": both_views,
    "byol": student_and_teacher,
    "barlow_twins": views_alone,
    "moco_v2": query_and_key,
    "swav": both_views,
}


class Resident:
    """Hands out one batch, and stops the loop until the clock allows the next steps."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._allowed = threading.Semaphore(0)
        self._asked = threading.Semaphore(0)

    def batches(self, start: int) -> Iterator[Batch]:
        """See `train.loop.Source`."""
        while True:
            self._asked.release()
            self._allowed.acquire()
            yield self._batch

    def sweep(self) -> Iterator[Batch]:
        """See `train.loop.Source`."""
        yield self._batch

    def ready(self) -> None:
        """Wait until the loop wants its first batch."""
        self._asked.acquire()

    def steps(self, count: int) -> float:
        """Let the loop do some steps and wait for the last one to end."""
        for _ in range(count):
            self._allowed.release()
            self._asked.acquire()
        return count


def make_batch(size: int, images: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(images, 3, size, size, generator=generator) for _ in range(2)]
    rows = torch.arange(images)
    return Batch(views, [], rows, rows, torch.zeros_like(rows))


def make_objective(name: str, size: int) -> Objective:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name="resnet18", in_channels=3))
    return build(name, backbone, settings(name, size), dataset_size=DATASET)


def measure(name: str, rounds: int, quick: bool) -> Report:
    size, images = (32, 16) if quick else (64, 64)
    batch = make_batch(size, images)
    objective = make_objective(name, size)
    bare = copy.deepcopy(objective)
    total = (rounds + 2) * 2 + 1  # each round runs ours twice: once as its own control
    config = FitConfig(
        samples=total * images,
        batch_size=images,
        optimizer=SGD,
        accelerator="cpu",
        channels_last=False,
        checkpoint_every=None,
        progress=False,
    )
    optimizer = build_optimizer(bare, SGD, batch_size=images)

    def floor() -> float:
        loss = FLOORS[name](bare, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 1

    source = Resident(batch)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", {}, {})
        loop = threading.Thread(
            target=fit,
            args=(objective, source, config, run),
            kwargs={
                "fabric": start_fabric(config),
                "dataset_size": DATASET,
                "monitor": CollapseMonitor(batch_size=images, dataset_size=DATASET),
            },
        )
        loop.start()
        source.ready()
        if name == "swav":  # only a full queue costs what a full queue costs
            fill(objective)
        report = paired(
            f"step_overhead {name}",
            f"training steps, ResNet-18, {size} px, batch {images}, 2 views",
            {"ours": lambda: source.steps(1), "bare": floor},
            rounds=rounds,
            targets={"bare": 1 / MOST[name]},
            extra={"bar, time of ours over bare": MOST[name]},
        )
        while loop.is_alive():  # the rest of the budget, so that the loop ends by itself
            source._allowed.release()
            loop.join(0.01)
    return report


def fill(objective: Objective) -> None:
    """Fill a queue without training: random unit rows, as many as it holds."""
    for queue in objective.queues:
        rows = nn.functional.normalize(torch.randn(len(queue), queue.rows.shape[1]), dim=1)
        queue.write(rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--methods", nargs="+", default=sorted(FLOORS), choices=sorted(FLOORS))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    reports = [finish(measure(name, chosen.rounds, chosen.quick)) for name in chosen.methods]
    if chosen.out:
        content = {
            report.name: {
                "time over bare": 1 / report.ratios["bare"].median,
                "quartiles": [1 / report.ratios["bare"].high, 1 / report.ratios["bare"].low],
                "bar": report.extra["bar, time of ours over bare"],
                "control": report.control.median,
                "trustworthy": report.trustworthy,
                "machine": report.machine,
            }
            for report in reports
        }
        Path(chosen.out).write_text(json.dumps(content, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
