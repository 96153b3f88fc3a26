"""`scoutview embed`."""

from pathlib import Path

from scoutview.base.errors import ConfigError
from scoutview.cli.terminal import Resume, note, require_alone


def embed(
    cohort: Path | None = None,
    run: Path | None = None,
    *,
    out: Path | None = None,
    where: str | None = None,
    batch_size: int = 256,
    resume: Resume = None,
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
        Images per forward pass, at least 1; 256 by default.
    resume
        Go on in a folder that a stopped call left: the folder alone, or --resume beside the other
        arguments.
    """
    given = locals()
    from scoutview.api.embed import embed as call
    from scoutview.api.embed import resume_embed

    if resume:
        require_alone(embed, given)
        file = resume_embed(resume[0], cohort)
    elif cohort is None or run is None or out is None:
        raise ConfigError("embed needs a cohort, a run and --out FOLDER; or --resume FOLDER alone.")
    else:
        again = resume is not None
        file = call(cohort, run, out, where=where, batch_size=batch_size, resume=again)
    note(f"Embeddings: {file}")
