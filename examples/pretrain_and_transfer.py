"""Pre-train on the bundled radiographs and measure what it is worth with few labels.

Run: python examples/pretrain_and_transfer.py --out pretrain-and-transfer
Two CPU cores: about three minutes. Prints the headline table and where the results page is.
"""

import argparse
from pathlib import Path

from scoutview.api.compare import compare
from scoutview.api.pretrain import PretrainConfig, pretrain
from scoutview.api.transfer import TransferConfig, transfer
from scoutview.nn.backbones import BackboneConfig
from scoutview.nn.optim_config import AdamWConfig, CosineSchedule
from scoutview.recipes.pneumoniamnist import SIDE, pneumoniamnist
from scoutview.views.policy import EvalView

SMALL = BackboneConfig(
    name="resnet18", small_stem=True, stage_widths=(16, 32, 64, 128), stage_depths=(1, 1, 1, 1)
)


def main() -> None:
    """Index, pre-train, transfer, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pretrain-and-transfer"))
    parser.add_argument("--method", default="simclr")
    parser.add_argument("--samples", type=int, default=40_000, help="images seen")
    parser.add_argument("--seeds", type=int, default=5, help="label subsets")
    given = parser.parse_args()

    cohort = pneumoniamnist(given.out / "cohort")
    run = pretrain(
        cohort,
        given.method,
        given.out / "run",
        config=PretrainConfig(
            samples=given.samples,
            batch_size=128,
            backbone=SMALL,
            optimizer=AdamWConfig(lr=1e-3, lr_per=None, weight_decay=1e-4),
            schedule=CosineSchedule(warmup_epochs=1),
        ),
    )
    settings = TransferConfig(
        fractions=(0.01, 0.1),
        seeds=tuple(range(given.seeds)),
        backbone=SMALL,
        view=EvalView(size=SIDE),
        on_leak="drop",  # the set has copies of validation images in its training part
        title="Pneumonia on radiographs of 28 x 28 pixels",
    )
    study = given.out / "study"
    transfer(cohort, "classification", run, study, settings)
    transfer(cohort, "classification", "random", study, settings, resume=True)
    page = compare(study, given.out / "results")
    print((page.parent / "tables" / "headline.md").read_text(encoding="utf-8"))
    print(f"Results page: {page}")


if __name__ == "__main__":
    main()
