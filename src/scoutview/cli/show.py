"""`scoutview show`."""

from pathlib import Path

from scoutview.cli.terminal import note


def show(
    cohort: Path,
    *,
    where: str | None = None,
    sheet: Path | None = None,
    images: int = 24,
    seed: int = 0,
    private: bool = False,
) -> None:
    """Describe a cohort: counts, geometry, labels, problems, and a contact sheet.

    Parameters
    ----------
    cohort
        Folder of the cohort.
    where
        Only images for which this holds, as "modality == 'CT' and n_slices >= 20".
    sheet
        PNG file to write the contact sheet to; only an earlier sheet is replaced.
    images
        Images on the sheet, at least 1; 24 by default.
    seed
        Which images those are, at least 0; 0 by default.
    private
        Also print source paths and original ids of the images on the sheet.
    """
    from scoutview.api.show import show as run

    shown = run(cohort, where=where, sheet=sheet, images=images, seed=seed, private=private)
    note(shown.text)
    if shown.sheet is not None:
        note(f"Contact sheet: {shown.sheet}")
    if shown.originals is not None:
        note(shown.originals.to_string(index=False))
