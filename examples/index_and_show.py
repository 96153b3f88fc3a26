"""Index a folder of scans, print what is in it, and draw a contact sheet.

Run: python examples/index_and_show.py YOUR_FOLDER --out index-and-show
Without a folder it takes the radiographs that come with scoutview.
"""

import argparse
from importlib.resources import as_file, files
from pathlib import Path

from scoutview.api.index import index
from scoutview.api.show import show
from scoutview.index.cohort import Cohort
from scoutview.index.config import HoldOut, IndexConfig


def main() -> None:
    """Index, describe, and look at the largest volume if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path, nargs="?", help="DICOM, NIfTI, PNG, npz, zip")
    parser.add_argument("--out", type=Path, default=Path("index-and-show"))
    parser.add_argument("--test", type=float, help="share of patients for testing")
    given = parser.parse_args()

    split = {} if given.test is None else {"split": HoldOut(test=given.test)}
    with as_file(files("scoutview") / "demo_data") as bundled:
        cohort = index(given.scans or bundled, given.out / "cohort", config=IndexConfig(**split))
        shown = show(cohort, sheet=given.out / "sheet.png")
    print(shown.text)
    print(f"Contact sheet: {shown.sheet}")

    table = Cohort.open(cohort).where("kind == 'volume'").table
    if len(table):
        largest = table.loc[table["n_slices"].idxmax()]
        spacing = largest[["spacing_z", "spacing_y", "spacing_x"]].to_list()
        print(f"Largest volume: {largest['image_id']}, {largest['n_slices']} slices,")
        print(f"  spacing {spacing} mm, orientation {largest['orientation'] or 'unknown'},")
        print(f"  gantry tilt {largest['gantry_tilt']:.1f} degrees")
    problems = (cohort / "problems.csv").read_text(encoding="utf-8").splitlines()[1:]
    print(f"{len(problems)} problems, see {cohort / 'problems.csv'}")


if __name__ == "__main__":
    main()
