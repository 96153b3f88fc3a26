"""Every method at one budget on two real sets, against the untrained and the supervised network.

    python -m benchmarks.method_comparison --out FOLDER [--brain-tumor FOLDER] [--seeds 0 1 2]

Writes `benchmarks/methods/RESULTS.md` and `runs.csv`. PneumoniaMNIST comes with the package; the
brain tumour slices are read from a folder (see `scoutview.recipes.brain_tumor`). About two hours on
two cores for both; call it again to go on, and with further seeds to add them.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from scoutview.methods import METHODS
from scoutview.recipes.brain_tumor import brain_tumor
from scoutview.recipes.method_comparison import BATCH, SAMPLES, UNTRAINED, compare_methods
from scoutview.recipes.pneumoniamnist import SIDE, pneumoniamnist
from scoutview.results.provenance import environment
from scoutview.stats.comparison import Comparison, holm, paired_t
from scoutview.stats.intervals import t_interval

HERE = Path(__file__).parent / "methods"
BRAIN_SIDE = 32
SCORES = {"knn_auc": "kNN AUC", "linear_10_auc": "linear, 10 %", "linear_100_auc": "linear, 100 %"}
DECIDES = "linear_10_auc"
SUPERVISED = "supervised"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--brain-tumor", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=sorted(METHODS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    sets: dict[str, tuple[Callable[[Path], Path], int]] = {"PneumoniaMNIST": (pneumoniamnist, SIDE)}
    if arguments.brain_tumor:
        sets["brain tumour MR"] = (
            lambda folder: brain_tumor(arguments.brain_tumor, folder),
            BRAIN_SIDE,
        )
    lines: list[dict[str, Any]] = []
    for name, (cohort, side) in sets.items():
        folder = arguments.out / name.replace(" ", "_")
        found = compare_methods(
            cohort(folder / "cohort"),
            folder,
            side=side,
            methods=arguments.methods,
            seeds=arguments.seeds,
        )
        lines += [{"data": name, **line} for line in found]
        write(pd.DataFrame(lines, columns=list(max(lines, key=len))))  # a fixed order


def write(runs: pd.DataFrame) -> None:
    """Write the CSV of all runs and the tables."""
    HERE.mkdir(exist_ok=True)
    runs.to_csv(HERE / "runs.csv", index=False)
    head = HEAD.format(samples=SAMPLES, steps=SAMPLES // BATCH, batch=BATCH, machine=machine(runs))
    parts = [head.rstrip()]
    for name, group in runs.groupby("data", sort=False):
        parts.append(f"## {name}\n\n{table(group)}\n\n{remarks(group)}".rstrip())
    (HERE / "RESULTS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


HEAD = """# Every method at one budget

Written by `python -m benchmarks.method_comparison`. Every training saw {samples:,} images in
{steps} steps of {batch} (AdamW, 1e-3, cosine; the network of the demo, 316 thousand weights; paper
defaults of each method but for the width of its heads). This is a short budget: it says what each
method gives *here*, not which is best. kNN: 20 nearest training images. Linear probes: on a random
10 % and on 100 % of the labels. AUC on the official test part, mean over seeds [95 % t-interval];
a seed is one training and one label subset; *b* marks a bootstrap over test images, where there is
one seed, and a difference without p says the same. Difference: linear probe at 10 % minus the
untrained network's on the same seeds; p: paired t, corrected by Holm over all methods. *Supervised*
saw all training labels while training. Time is wall time per step, memory the peak of the process.
{machine}
"""


def machine(runs: pd.DataFrame) -> str:
    """Name what ran them, and the commits they ran at."""
    known = environment()
    commits = ", ".join(dict.fromkeys(commit[:8] + commit[40:] for commit in runs["commit"]))
    return (
        f"{known['cpu']}, {known['cores']} cores, Python {known['python']}, torch"
        f" {known['packages']['torch']}, commit {commits}.\n"
    )


def table(runs: pd.DataFrame) -> str:
    """One line per method, best first."""
    whole = runs[runs["error"] == ""]
    by_method = {str(name): group.set_index("seed") for name, group in whole.groupby("method")}
    tests = {
        against: {
            name: compared(group, by_method[against])
            for name, group in by_method.items()
            if name not in (UNTRAINED, against)
        }
        for against in (UNTRAINED, SUPERVISED)
        if against in by_method
    }
    heads = ["method", "seeds", *SCORES.values()]
    heads += [f"minus {name} (p, Holm)" for name in tests]
    heads += ["ms/step", "peak MB", "alarms"]
    out = [f"| {' | '.join(heads)} |", "| :-- " + "| --: " * (len(heads) - 2) + "| :-- |"]
    for name in sorted(by_method, key=lambda name: -by_method[name][DECIDES].mean()):
        group = by_method[name]
        cells = [name, str(len(group)), *(interval(group, score) for score in SCORES)]
        cells += [told(found, name) for found in tests.values()]
        cells += [cost(group, "ms_per_step"), cost(group, "peak_mb")]
        cells.append(", ".join(sorted(set(" ".join(group["alarms"].fillna("")).split()))))
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def compared(group: pd.DataFrame, base: pd.DataFrame) -> Comparison:
    """Compare two methods on the seeds that both have."""
    shared = group.index.intersection(base.index)
    return paired_t(group.loc[shared, DECIDES], base.loc[shared, DECIDES])


def told(tests: dict[str, Comparison], name: str) -> str:
    """Write a difference with its interval and corrected p."""
    if name not in tests:
        return "-"
    corrected = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    test = tests[name]
    if test.n < 2:
        return f"{test.difference:+.3f}"
    return f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}] ({corrected[name]:.3f})"


def interval(group: pd.DataFrame, score: str) -> str:
    """Write a mean over seeds with its interval; of one seed, with that over test images."""
    if len(group) > 1:
        found = t_interval(group[score], bounds=(0.0, 1.0))
        return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    low, high = (float(group[score.replace("_auc", end)].iloc[0]) for end in ("_low", "_high"))
    return f"{float(group[score].iloc[0]):.3f} [{low:.3f}, {high:.3f} b]"


def cost(group: pd.DataFrame, column: str) -> str:
    known = group[column].dropna() if column in group else pd.Series(dtype=float)
    return f"{known.median():.0f}" if len(known) else "-"


def remarks(runs: pd.DataFrame) -> str:
    """Name what failed and what does not differ."""
    failed = runs[runs["error"] != ""]
    lines = [f"- {r.method}, seed {r.seed}, stopped: {r.error}" for r in failed.itertuples()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
