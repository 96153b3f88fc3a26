"""`scoutview embed`."""

from pathlib import Path

from scoutview.cli.terminal import note


def embed(
    cohort: Path,
    run: Path,
    *,
    out: Path,
    where: str | None = None,
    batch_size: int = 256,
    resume: bool = False,
) -> None:
    """Write a backbone's features of a cohort: one row per image in embeddings.parquet.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    run
        A run with a backbone.
    out
        New folder.
    where
        Only images for which this holds.
    batch_size
        Images per forward pass.
    resume
        Go on in a folder that a stopped call left.
    """
    from scoutview.api.embed import embed as call

    note(f"Embeddings: {call(cohort, run, out, where=where, batch_size=batch_size, resume=resume)}")
