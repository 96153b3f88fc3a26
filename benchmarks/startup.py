"""How long one waits: for `--help`, `--version`, the import, and the first training step.

Every start is a fresh process, wall time, interleaved with `python -c pass`. The first training
step is counted from the end of `import torch` to the first update by the optimiser: SimCLR with the
demo's network on the bundled images, whose cohort and store are built beforehand, on as many
threads as torch takes. It holds three forward and backward passes, as the preflight measures two
of its own; the whole run of twelve steps, with its last checkpoint, is stated beside it. Its floor
is one step of a bare loop: timm, the same network and AdamW.

Run: python -m benchmarks.startup [--python PYTHON] [--quick] [--out FILE]
`--python` names an interpreter of a clean environment with the core package alone; without it the
present environment is measured, whose further packages may slow the start.
"""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from benchmarks.pairing import finish, paired, parser

MOST_START, MOST_STEP = 0.15, 3.0
"""Bars: seconds over bare Python, seconds after `import torch`."""

FLOOR = "python -c pass"
STARTS = {
    "scoutview --help": ["-m", "scoutview", "--help"],
    "scoutview --version": ["-m", "scoutview", "--version"],
    "import scoutview": ["-c", "import scoutview"],
    FLOOR: ["-c", "pass"],
}

_PREPARE = """
import sys
from scoutview.api.store import stored
from scoutview.index.cohort import Cohort
from scoutview.recipes.pneumoniamnist import pneumoniamnist
stored(Cohort.open(pneumoniamnist(sys.argv[1])))
"""

_STEP = """
import json, sys, time
before = time.perf_counter(), time.process_time()
import torch
after = time.perf_counter(), time.process_time()
stepped = []
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(
    lambda *_: stepped or stepped.append((time.perf_counter(), time.process_time()))
)
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.nn.backbones import BackboneConfig
imported = time.perf_counter(), time.process_time()
config = PretrainConfig(
    samples=384, epochs=None, batch_size=32, accelerator="cpu", probe_every=None, progress=False,
    backbone=BackboneConfig(
        name="resnet18", small_stem=True, stage_widths=(16, 32, 64, 128), stage_depths=(1, 1, 1, 1)
    ),
)
pretrain(sys.argv[1], "simclr", sys.argv[2], config=config)
done = time.perf_counter(), time.process_time()
print(json.dumps([before, after, imported, stepped[0], done]))
"""

_BARE = """
import json, time
import torch
after = time.perf_counter()
import timm
network = timm.create_model("resnet18", channels=(16, 32, 64, 128), layers=(1, 1, 1, 1))
optimizer = torch.optim.AdamW(network.parameters())
network(torch.randn(64, 3, 28, 28)).square().mean().backward()
optimizer.step()
print(json.dumps(time.perf_counter() - after))
"""


def start(python: str, arguments: list[str], seconds: list[float]) -> Callable[[], float]:
    def run() -> float:
        began = perf_counter()
        subprocess.run([python, *arguments], check=True, capture_output=True)
        seconds.append(perf_counter() - began)
        return 1

    return run


def cpu_seconds(python: str, arguments: list[str]) -> float:
    """Processor seconds of a start, the least of five: what a quiet machine would need."""
    taken = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([python, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def first_step(python: str, rounds: int) -> dict[str, Any]:
    """Seconds from `import torch` to the end of the first step of training."""
    walls, cpus, imports, whole, bare = [], [], [], [], []
    with tempfile.TemporaryDirectory() as name:
        cohort = str(Path(name) / "cohort")
        subprocess.run([python, "-c", _PREPARE, cohort], check=True, capture_output=True)
        for turn in range(rounds):
            command = [python, "-c", _STEP, cohort, str(Path(name) / f"run{turn}")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            _, after, imported, step, end = json.loads(done.stdout.splitlines()[-1])
            walls.append(step[0] - after[0])
            cpus.append(step[1] - after[1])
            whole.append(end[0] - after[0])
            imports.append(imported[1] - after[1])
            loop = subprocess.run([python, "-c", _BARE], check=True, capture_output=True, text=True)
            bare.append(json.loads(loop.stdout))
    return {
        "first step after import torch, wall s (median, quartiles)": spread(walls),
        "of it CPU s": spread(cpus),
        "of it imports, CPU s": spread(imports),
        "whole run of twelve steps after import torch, wall s": spread(whole),
        "first step of a bare timm loop after import torch, wall s": spread(bare),
        "first step, bar, s": MOST_STEP,
        "first step": "met" if float(np.percentile(walls, 75)) <= MOST_STEP else "missed",
    }


def spread(values: list[float]) -> list[float]:
    return [round(float(value), 3) for value in np.percentile(values, [50, 25, 75])]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--python", help="interpreter of a clean core environment")
    arguments = options.parse_args()
    python = arguments.python or sys.executable
    taken: dict[str, list[float]] = {name: [] for name in STARTS}
    sides = {name: start(python, command, taken[name]) for name, command in STARTS.items()}
    report = paired(
        "startup",
        "starts of a process, wall time",
        sides,
        clock="wall",
        rounds=arguments.rounds,
        extra={"environment": "clean core" if arguments.python else "the developers'"},
    )
    rounds = len(taken[FLOOR])
    bare = cpu_seconds(python, STARTS[FLOOR])
    for name in [name for name in STARTS if name != FLOOR]:
        # The control has run the first side twice a round.
        runs = np.array(taken[name])[:: len(taken[name]) // rounds]
        over = runs - np.array(taken[FLOOR])
        report.extra[f"{name} over bare Python, wall s"] = spread(over.tolist())
        busy = cpu_seconds(python, STARTS[name]) - bare
        report.extra[f"{name} over bare Python, CPU s"] = round(busy, 3)
    report.extra["bar, s"] = MOST_START
    report.extra.update(first_step(python, 3 if arguments.quick else 5))
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
