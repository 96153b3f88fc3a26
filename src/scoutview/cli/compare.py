"""`scoutview compare`."""

from pathlib import Path

from scoutview.cli.terminal import note


def compare(
    *studies: Path,
    out: Path,
    title: str = "",
    reference: str | None = None,
    headline_fraction: float | None = None,
    allow_unfinished: bool = False,
    count_copies_once: bool = False,
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
    headline_fraction
        Label fraction of the headline; by default the one nearest to 10 %.
    allow_unfinished
        Also use runs that have predictions but did not finish.
    count_copies_once
        Count bit-identical repetitions as one run instead of refusing them.
    """
    from scoutview.api.compare import compare as run

    page = run(
        list(studies),
        out,
        title=title,
        reference=reference,
        headline_fraction=headline_fraction,
        allow_unfinished=allow_unfinished,
        count_copies_once=count_copies_once,
    )
    note((out / "tables" / "headline.md").read_text(encoding="utf-8"))
    note(f"Results page: {page}")
