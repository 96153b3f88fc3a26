"""`scoutview demo`."""

from pathlib import Path

from scoutview.cli.terminal import note


def demo(*, out: Path = Path("demo-out"), full: bool = False) -> None:
    """Index, pre-train, transfer and compare on 5,856 real radiographs that come with scoutview.

    Parameters
    ----------
    out
        Folder for everything; run it again to go on.
    full
        All methods and a larger budget; takes about two hours on two cores.
    """
    from scoutview.recipes.demo import run_demo

    done = run_demo(out, full=full)
    note(done.table)
    for line in done.remarks:
        note(line)
    note(f"Results page: {done.page}")
