"""`scoutview compare`."""

from pathlib import Path

from scoutview.cli.terminal import note


def compare(
    *studies: Path,
    out: Path,
    title: str = "",
    reference: str | None = None,
    allow_unfinished: bool = False,
) -> None:
    """Write tables, figures and one self-contained results page from studies or runs.

    Parameters
    ----------
    studies
        Folders of studies, or of single runs.
    out
        New folder for results.html, tables/ and figures/.
    title
        Title of the page.
    reference
        The initialisation that others are compared with; by default the random backbone.
    allow_unfinished
        Also use runs that have predictions but did not finish.
    """
    from scoutview.api.compare import compare as run

    page = run(
        list(studies), out, title=title, reference=reference, allow_unfinished=allow_unfinished
    )
    note((out / "tables" / "headline.md").read_text(encoding="utf-8"))
    note(f"Results page: {page}")
