"""Paired, interleaved measurement: both sides in one process, round by round.

A figure of this project is a ratio of two things measured side by side, so that a busy machine
changes both. `paired` runs the sides A B A B ..., takes the ratio inside each round and reports the
median ratio with its quartiles. One side is timed a second time as its own control (A/A): a control
away from 1 means that the run says nothing, and `Report.trustworthy` is then false.
"""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

Clock = Literal["cpu", "wall"]
CONTROL = (0.98, 1.02)
"""Where the median of the A/A control must lie."""
PACKAGES = ("numpy", "torch", "torchvision", "opencv-python-headless", "blosc2", "pydicom", "timm")


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios and their quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Report:
    """What one benchmark measured. Written as JSON, printed as text."""

    name: str
    what: str
    clock: Clock
    rates: dict[str, float]
    """Units per second of each side: median over the rounds."""
    ratios: dict[str, Ratio]
    """Rate of our side over the rate of each other side; above 1, ours is faster."""
    control: Ratio
    """Our side against itself."""
    targets: dict[str, float]
    """The smallest ratio that meets the bar, per other side."""
    machine: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def trustworthy(self) -> bool:
        """Whether the control lies within `CONTROL`."""
        return CONTROL[0] <= self.control.median <= CONTROL[1]

    def verdict(self, side: str) -> str:
        """Say "met" when the lower quartile reaches the target, "missed" otherwise."""
        if side not in self.targets:
            return ""
        return "met" if self.ratios[side].low >= self.targets[side] else "missed"

    def text(self) -> str:
        """Format the report for people."""
        rows = [f"{self.name}: {self.what}"]
        rows.append(f"  clock: {self.clock}, rounds: {self.control.rounds}")
        rows += [f"  {side:<28} {rate:>12,.1f} /s" for side, rate in self.rates.items()]
        for side, ratio in self.ratios.items():
            target = self.targets.get(side)
            bar = "" if target is None else f"  bar {target:g}: {self.verdict(side)}"
            rows.append(f"  ours / {side:<21} {ratio}{bar}")
        sound = "ok" if self.trustworthy else "OUTSIDE 0.98-1.02: the machine was too busy"
        rows.append(f"  A/A control                  {self.control}  {sound}")
        rows += [f"  {key}: {value}" for key, value in self.extra.items()]
        rows.append(f"  machine: {self.machine}")
        return "\n".join(rows)


def paired(
    name: str,
    what: str,
    sides: dict[str, Callable[[], float]],
    *,
    clock: Clock = "cpu",
    rounds: int = 9,
    warm_up: int = 2,
    targets: dict[str, float] | None = None,
    extra: dict[str, Any] | None = None,
) -> Report:
    """Time several callables against each other.

    Args:
        name: Name of the benchmark.
        what: One line: what a unit is and at which sizes.
        sides: Callables in order; the first is ours. Each does one round of work and returns
            how many units it did (samples, steps, files).
        clock: "cpu" counts this process's CPU time (all its threads), "wall" the time that passed.
        rounds: Measured rounds, >= 5.
        warm_up: Rounds before, not counted.
        targets: The smallest ratio ours / other that meets the bar.
        extra: Further facts for the report.

    Returns:
        The report.
    """
    if rounds < 5:
        raise ValueError(f"rounds must be >= 5, got {rounds}")
    ours = next(iter(sides))
    rates: dict[str, list[float]] = {side: [] for side in sides}
    again: list[float] = []
    load = os.getloadavg()
    for turn in range(warm_up + rounds):
        # The order alternates so that drift within a round favours nobody.
        order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        measured = {side: _rate(sides[side], clock) for side in order}
        repeat = _rate(sides[ours], clock)
        if turn >= warm_up:
            again.append(repeat)
            for side, rate in measured.items():
                rates[side].append(rate)
    others = [side for side in sides if side != ours]
    return Report(
        name=name,
        what=what,
        clock=clock,
        rates={side: median(values) for side, values in rates.items()},
        ratios={side: _ratio(rates[ours], rates[side]) for side in others},
        control=_ratio(rates[ours], again),
        targets=targets or {},
        machine=machine() | {"load_before": load, "load_after": os.getloadavg()},
        extra=extra or {},
    )


def _rate(work: Callable[[], float], clock: Clock) -> float:
    now = time.process_time if clock == "cpu" else time.perf_counter
    start = now()
    units = work()
    return units / max(now() - start, 1e-9)


def _ratio(ours: Iterable[float], other: Iterable[float]) -> Ratio:
    values = [a / b for a, b in zip(ours, other, strict=True)]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Ratio(median(values), low, high, len(values))


def machine() -> dict[str, Any]:
    """Describe hardware, threads and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip() or "unknown"


def finish(report: Report, out: str | None = None) -> Report:
    """Print a report and, where a file is named, write it as JSON."""
    print(report.text(), flush=True)
    if out:
        content = asdict(report) | {"trustworthy": report.trustworthy}
        Path(out).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return report


def parser(description: str | None, *, written: str = "JSON") -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--out", help=f"write the report as {written} to this file")
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--quick", action="store_true", help="smaller sizes, for frequent runs")
    return made
