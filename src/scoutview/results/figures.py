"""Figures of the results page, drawn with matplotlib's object interface for a phone's width."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from scoutview.results.collect import Arm, Collection, ComparedRun
from scoutview.results.palette import Mark, marks
from scoutview.results.tables import Tables
from scoutview.stats.calibration import reliability
from scoutview.stats.intervals import patient_weights
from scoutview.stats.ranking import Ranking

Floats = NDArray[np.float64]

WIDTH: Final = 4.2
"""Inches; 403 CSS pixels, so that 8.5 point text stays legible when a phone shows it."""

STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "path",
    "svg.hashsalt": "scoutview",
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """A finished figure."""

    name: str
    """Name of the file, without its ending."""
    kind: Literal["svg", "png"]
    data: bytes
    alt: str
    """What it shows, for those who do not see it."""
    caption: str
    width: int
    """CSS pixels."""
    height: int
    """CSS pixels."""


@contextmanager
def canvas(
    width: float = WIDTH,
    height: float = 3.5,
    *,
    layout: Literal["constrained"] | None = "constrained",
) -> Iterator[Figure]:
    """Give an empty figure in the common style.

    Args:
        width: Inches.
        height: Inches.
        layout: None where axes are placed by hand.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def picture(
    figure: Figure,
    name: str,
    *,
    alt: str,
    caption: str,
    kind: Literal["svg", "png"] = "svg",
    software: str | None = None,
) -> Picture:
    """Render a figure, bit-equal for equal input; a PNG may name the software that made it."""
    stream = io.BytesIO()
    # No date and no version inside: the same results give the same bytes.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": software}
    figure.savefig(stream, format=kind, dpi=192, metadata=metadata)
    width, height = figure.get_size_inches()
    return Picture(
        name, kind, stream.getvalue(), alt, caption, round(96 * width), round(96 * height)
    )


def label_fraction_curves(tables: Tables, arms: Sequence[Arm]) -> Picture:
    """Draw the AUC of every arm over the share of labels, with intervals over seeds."""
    style = marks(arms)
    fractions = sorted({cell.fraction for cell in tables.cells})
    with canvas(height=3.9 + 0.16 * len(arms)) as figure:
        axes = figure.add_subplot()
        for k, arm in enumerate(arms):
            # A step aside keeps intervals at the same fraction apart.
            shift = 1.0 if len(arms) == 1 else 10 ** (0.10 * (k / (len(arms) - 1) - 0.5))
            _fraction_line(axes, tables, arm.name, style[arm.name], shift)
        axes.set_xscale("log")
        axes.set_xticks(fractions, [_percent(fraction) for fraction in fractions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(min(fractions) / 1.35, max(fractions) * 1.35)
        axes.set_xlabel("share of training patients with labels")
        axes.set_ylabel("test AUC")
        axes.grid(axis="x", visible=False)
        _legend(figure, axes)
        return picture(
            figure,
            "label_fractions",
            alt=_fraction_alt(tables, fractions),
            caption=(
                "Test AUC over the share of labels. Points: mean over seeds; bars: 95 % interval"
                " over seeds (t); where there is one seed, over test patients (bootstrap)."
                " Points of one fraction are drawn side by side."
            ),
        )


def _fraction_line(axes: Axes, tables: Tables, arm: str, mark: Mark, shift: float) -> None:
    cells = sorted((c for c in tables.cells if c.arm == arm), key=lambda cell: cell.fraction)
    x = np.array([cell.fraction for cell in cells]) * shift
    y = np.array([cell.over_seeds.value for cell in cells])
    shown = [c.over_patients if math.isnan(c.over_seeds.low) else c.over_seeds for c in cells]
    low = np.array([estimate.low for estimate in shown])
    high = np.array([estimate.high for estimate in shown])
    axes.errorbar(
        x,
        y,
        yerr=np.abs([y - low, high - y]),
        color=mark.colour,
        marker=mark.marker,
        linestyle=mark.line,
        capsize=2.5,
        elinewidth=1,
        label=arm,
    )


def _fraction_alt(tables: Tables, fractions: Sequence[float]) -> str:
    parts = []
    for arm in dict.fromkeys(cell.arm for cell in tables.cells):
        values = [
            f"{cell.over_seeds.value:.3f} at {_percent(fraction)}"
            for fraction in fractions
            if (cell := tables.cell(arm, fraction)) is not None
        ]
        parts.append(f"{arm}: {', '.join(values)}")
    return "Line chart of test AUC over label fraction. " + "; ".join(parts) + "."


def roc_curves(
    collection: Collection, tables: Tables, arms: Sequence[Arm], *, replicates: int = 200
) -> list[Picture]:
    """Draw ROC curves at the headline fraction, one picture per averaged label (at most four)."""
    fraction = tables.headline_fraction
    style = marks(collection.arms)
    pictures = []
    for label in tables.labels[:4]:
        with canvas(height=4.3) as figure:
            axes = figure.add_subplot(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
            axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=0.8, linestyle=(0, (2, 2)))
            for arm in arms:
                runs = _runs_at(collection, arm.name, fraction)
                grid, middle, low, high = roc_band(runs, label, replicates=replicates)
                mark = style[arm.name]
                axes.fill_between(grid, low, high, color=mark.colour, alpha=0.15, linewidth=0)
                axes.plot(grid, middle, color=mark.colour, linestyle=mark.line, label=arm.name)
            axes.set_xlabel("1 - specificity")
            axes.set_ylabel("sensitivity")
            if len(tables.labels) > 1:
                axes.set_title(label)
            _legend(figure, axes)
            names = ", ".join(arm.name for arm in arms)
            pictures.append(
                picture(
                    figure,
                    f"roc_{_file_name(label)}",
                    alt=f"ROC curves for {label} of {names}, with bootstrap bands.",
                    caption=(
                        f"ROC for {label} at {_percent(fraction)} of the labels. Lines: mean"
                        " sensitivity over seeds at equal specificity; bands: pointwise 95 %"
                        f" bootstrap over test patients, {replicates} replicates."
                    ),
                )
            )
    return pictures


def roc_band(
    runs: Sequence[ComparedRun], label: str, *, replicates: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Average ROC curves over runs and bootstrap the average over patients.

    Returns:
        False-positive rates (G,), mean true-positive rates (G,), lower and upper 95 % band (G,).
    """
    grid = np.linspace(0, 1, 201)
    tables = [run.test[run.test["label"] == label] for run in runs]
    rankings = [Ranking.of(t["target"].to_numpy(), t["score"].to_numpy()) for t in tables]
    images = pd.concat([t[["image_id", "patient_id"]] for t in tables]).drop_duplicates()
    row_of = pd.Series(np.arange(len(images)), index=images["image_id"])
    rows = [row_of[t["image_id"]].to_numpy() for t in tables]
    middle = np.mean([_sensitivity(r, np.ones(r.size), grid) for r in rankings], axis=0)
    drawn = [
        np.mean([_sensitivity(r, w[i], grid) for r, i in zip(rankings, rows, strict=True)], axis=0)
        for w in patient_weights(images["patient_id"], replicates, seed=0)
    ]
    low, high = np.nanquantile(np.stack(drawn), [0.025, 0.975], axis=0)
    return grid, middle, low, high


def _sensitivity(ranking: Ranking, weights: Floats, grid: Floats) -> Floats:
    curve = ranking.curve(weights)
    positives, negatives = curve.true_positives[-1], curve.false_positives[-1]
    if positives == 0 or negatives == 0:
        return np.full(len(grid), np.nan)
    x = np.concatenate([[0.0], curve.false_positives / negatives])
    y = np.concatenate([[0.0], curve.true_positives / positives])
    # The curve rises vertically at ties of x: the upper point is what can be reached there.
    last = np.append(np.diff(x) > 0, True)
    return np.asarray(np.interp(grid, x[last], y[last]), dtype=np.float64)


def calibration_curves(
    collection: Collection, tables: Tables, arms: Sequence[Arm]
) -> list[Picture]:
    """Draw predicted against observed frequency at the headline fraction, seeds pooled."""
    fraction = tables.headline_fraction
    style = marks(collection.arms)
    pictures = []
    for label in tables.labels[:4]:
        with canvas(height=4.3) as figure:
            axes = figure.add_subplot(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=0.8, linestyle=(0, (2, 2)))
            for arm in arms:
                _calibration_line(axes, collection, arm.name, style[arm.name], fraction, label)
            axes.set_xlabel("predicted probability")
            axes.set_ylabel("observed frequency")
            if len(tables.labels) > 1:
                axes.set_title(label)
            _legend(figure, axes)
            pictures.append(
                picture(
                    figure,
                    f"calibration_{_file_name(label)}",
                    alt=f"Calibration curves for {label}; the diagonal is perfect calibration.",
                    caption=(
                        f"Calibration for {label} at {_percent(fraction)} of the labels: ten"
                        " equal-width bins, test images of all seeds pooled, bins with fewer than"
                        " 10 left out. On the dotted diagonal a predicted 30 % happens in 30 %."
                    ),
                )
            )
    return pictures


def _calibration_line(
    axes: Axes, collection: Collection, arm: str, mark: Mark, fraction: float, label: str
) -> None:
    runs = _runs_at(collection, arm, fraction)
    pooled = pd.concat([run.test[run.test["label"] == label] for run in runs])
    table = reliability(pooled["target"].to_numpy(), pooled["score"].to_numpy())
    enough = table.weight >= 10
    axes.plot(
        table.predicted[enough],
        table.observed[enough],
        color=mark.colour,
        marker=mark.marker,
        linestyle=mark.line,
        linewidth=1.2,
        label=arm,
    )


def training_curve(
    curves: dict[str, pd.DataFrame],
    arms: Sequence[Arm],
    key: str,
    title: str,
    *,
    converged: dict[str, int] | None = None,
) -> Picture:
    """Draw a measure of the pre-training runs over the samples seen.

    Args:
        curves: Metrics by arm, see `RunFolder.metrics`.
        arms: All arms of the study, for their colours.
        key: Column of the metrics.
        title: What the column means.
        converged: Epoch (counted from 1) at which each arm converged; marked with a ring.
    """
    style = marks(arms)
    drawn = []
    with canvas(height=3.4) as figure:
        axes = figure.add_subplot()
        for arm, metrics in curves.items():
            if key not in metrics or metrics[key].notna().sum() < 2:
                continue
            known = metrics[metrics[key].notna()]
            mark = style[arm]
            x, y = known["samples_seen"].to_numpy(), known[key].to_numpy()
            axes.plot(x, y, color=mark.colour, linestyle=mark.line, label=arm)
            drawn.append(arm)
            if converged and arm in converged:
                there = int(np.argmax(np.ceil(known["epoch"].to_numpy()) >= converged[arm]))
                axes.plot(
                    x[there],
                    y[there],
                    marker=mark.marker,
                    markersize=8,
                    markerfacecolor="white",
                    markeredgewidth=1.8,
                    color=mark.colour,
                )
        axes.set_xlabel("images seen in pre-training")
        axes.set_ylabel(title)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        _legend(figure, axes)
        ring = " White markers: earliest epoch at 98 % of the run's best." if converged else ""
        return picture(
            figure,
            f"training_{_file_name(key)}",
            alt=f"{_capital(title)} over the images seen, for {', '.join(drawn)}.",
            caption=f"{_capital(title)} while pre-training, one run each.{ring}",
        )


def _runs_at(collection: Collection, arm: str, fraction: float) -> list[ComparedRun]:
    return [r for r in collection.runs if (r.arm, r.entry.fraction) == (arm, fraction)]


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    longest = max((len(name) for name in names), default=0)
    figure.legend(
        handles, names, loc="outside lower left", ncols=1 if longest > 26 else 2, handlelength=2.6
    )


def _thousands(value: float, _: int) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text.lower())
