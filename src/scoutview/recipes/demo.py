"""The demo: 5,856 real paediatric chest radiographs through the whole path, in minutes.

Data: PneumoniaMNIST (Yang et al., 2023, CC BY 4.0), which comes with the package.
Hardware and time: two CPU cores, below 6 minutes; `full` about two hours.
"""

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scoutview.api.experiment import Arm, ExperimentConfig, Pretraining, experiment
from scoutview.api.pretrain import PretrainConfig
from scoutview.api.show import show
from scoutview.api.transfer import TransferConfig
from scoutview.api.transfer_runs import FineTune
from scoutview.methods import METHODS as REGISTRY
from scoutview.methods import config_class, method_class
from scoutview.nn.backbones import BackboneConfig
from scoutview.nn.optim_config import AdamConfig, AdamWConfig, CosineSchedule
from scoutview.recipes.pneumoniamnist import SIDE, pneumoniamnist
from scoutview.tasks.probe import LogisticRegression
from scoutview.train.config import FitConfig
from scoutview.views.policy import EvalView

logger = logging.getLogger(__name__)

HEADS: Final[dict[str, dict[str, int]]] = {
    "simclr": {},
    "moco_v2": {},
    "byol": {"hidden_dim": 1024},
    "barlow_twins": {"hidden_dim": 512, "output_dim": 512},
    "swav": {"prototypes": 64, "queue_length": 0},
}
"""Settings that fit a small network; methods without any get narrow heads."""
METHODS: Final = ("simclr", "byol")
SAMPLES: Final = 23_040
FULL_SAMPLES: Final = 100_000
SUPERVISED_SAMPLES: Final = 7_040
SEEDS: Final = (0, 1, 2, 3, 4)
WARMUP_EPOCHS: Final = 1.0

SMALL_NETWORK: Final = BackboneConfig(
    name="resnet18", small_stem=True, stage_widths=(16, 32, 64, 128), stage_depths=(1, 1, 1, 1)
)
"""316 thousand weights; about 900 images a second, two views each, on two cores. The usual stem is
three times as fast, but halves 28 pixels twice before the first block: untrained, it then gives a
test AUC of .64 at 10 % of the labels instead of .86, too weak a baseline to beat honestly."""


@dataclass(frozen=True)
class Demo:
    """What the demo made."""

    page: Path
    """The results page."""
    table: str
    """The headline table, Markdown."""
    remarks: tuple[str, ...]
    """What else a reader must know."""


def run_demo(out: str | Path, *, full: bool = False) -> Demo:
    """Index, show, pre-train, transfer, compare; call it again to go on.

    Args:
        out: Folder: `cohort/`, `contact_sheet.png`, `pretraining/`, `studies/`, `results/`.
        full: All methods with a larger budget.

    Returns:
        The page and its headline.
    """
    start, folder = time.monotonic(), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    cohort = pneumoniamnist(folder / "cohort")
    show(cohort, sheet=folder / "contact_sheet.png")
    page = experiment(cohort, folder, demo_config(full=full), resume=True)
    table = (page.parent / "tables" / "headline.md").read_text(encoding="utf-8")
    minutes = (time.monotonic() - start) / 60
    config = demo_config(full=full)
    seen = _budgets(config)
    return Demo(page, table, (f"{seen} Took {minutes:.1f} minutes.",))


def _budgets(config: ExperimentConfig) -> str:
    """Say what each training saw; short ones must not be taken for the best of their kind."""
    wishes = [arm.pretraining.config.samples for arm in config.arms if arm.pretraining]
    trained = [arm.mode.fit.samples for arm in config.arms if isinstance(arm.mode, FineTune)]
    return f"Seen by each pre-training: {wishes[0]:,} images; by each supervised: {trained[0]:,}."


def demo_config(*, full: bool = False) -> ExperimentConfig:
    """The demo's comparison: pre-trained, random, supervised, and raw pixels.

    Args:
        full: All methods with a larger budget.
    """
    methods = self_supervised() if full else METHODS
    samples = FULL_SAMPLES if full else SAMPLES
    return ExperimentConfig(
        arms=(
            *(
                Arm(
                    name=title(method),
                    pretraining=pretraining(method, samples, probe_every=5 if full else 1),
                )
                for method in methods
            ),
            Arm(initialisation="random", name="random"),
            Arm(initialisation="random", mode=_supervised(full=full), name="supervised"),
            Arm(initialisation="raw_pixels", mode=LogisticRegression(), name="raw pixels"),
        ),
        transfer=TransferConfig(
            fractions=(0.01, 0.1, 1.0),
            seeds=SEEDS,
            on_leak="drop",
            backbone=SMALL_NETWORK,
            view=EvalView(size=SIDE),
        ),
        title="Pneumonia on paediatric chest radiographs (PneumoniaMNIST)",
    )


def self_supervised() -> tuple[str, ...]:
    """Names of all methods that need no labels, those of the short demo first."""
    found = [name for name in REGISTRY if method_class(name).self_supervised]
    return (*METHODS, *(name for name in found if name not in METHODS))


def title(method: str) -> str:
    """Name of a method in tables and figures: what its file begins with."""
    words = sys.modules[config_class(method).__module__].__doc__ or method
    return words.partition(":")[0]


def pretraining(method: str, samples: int, *, probe_every: int = 5) -> Pretraining:
    """One pre-training with a budget in samples seen, and AdamW for so short a one.

    Args:
        method: Registry name.
        samples: Images seen.
        probe_every: Epochs between two probes.
    """
    narrow = {"hidden_dim": 512, "output_dim": 128}
    kind = config_class(method)
    wishes = HEADS.get(method, {k: v for k, v in narrow.items() if k in kind.model_fields})
    return Pretraining(
        method=method,
        settings=kind.build(wishes),
        config=PretrainConfig(
            samples=samples,
            batch_size=128,
            backbone=SMALL_NETWORK,
            optimizer=AdamWConfig(lr=1e-3, lr_per=None, weight_decay=1e-4),
            schedule=CosineSchedule(warmup_epochs=WARMUP_EPOCHS),
            precision="bf16-mixed",
            probe_every=probe_every,
        ),
    )


def _supervised(*, full: bool) -> FineTune:
    return FineTune(
        fit=FitConfig(
            samples=SUPERVISED_SAMPLES * (4 if full else 1),
            batch_size=64,
            optimizer=AdamConfig(lr=1e-3, lr_per=None),
            schedule=CosineSchedule(warmup_epochs=0),
            precision="bf16-mixed",
            checkpoint_every=None,
        ),
        epoch_choice="last",
    )
