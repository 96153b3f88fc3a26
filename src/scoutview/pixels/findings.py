"""What can be wrong with a file, as a closed list of words, and what its owner can do."""

from typing import Final

from scoutview.base.errors import DataError
from scoutview.pixels.headers import Locator, Problem

REASONS: Final = {
    "unreadable": "Check that the file exists and that its permissions allow reading.",
    "empty": "Copy the file again from its source, or remove it.",
    "truncated": "Copy the file again from its source; its end is missing.",
    "damaged": "Export the file again from its source, or remove it.",
    "unknown_format": "Remove the file, or convert it to DICOM, NIfTI, PNG, JPEG, TIFF or npz.",
    "unsupported": "Convert the file to a supported variety, or remove it.",
    "too_large": "Read the file on a machine with more memory, or remove it.",
    "no_pixels": "Export the image with its pixel data.",
    "encrypted": "Unpack the archive with its password and index the files.",
    "archive_too_large": "Unpack the archive by hand if you trust it, and index the folder.",
    "archive_too_deep": "Unpack the inner archives and index the folder.",
    "inconsistent": "Correct the file so that its arrays and header agree.",
    "missing_spacing": "Add the pixel spacing to the header, or do not use millimetres.",
    "invalid_spacing": "Correct the pixel spacing in the header; it must be > 0 mm.",
    "invalid_value": "Correct the named header value; it was treated as missing.",
    "nan_pixels": "Replace the undefined pixels, or remove the file.",
    "localizer": "Nothing; the localiser stays out of the volume.",
    "no_position": "Export the series with image position and orientation.",
    "mixed_orientation": "Export each orientation as its own series; the largest group was kept.",
    "mixed_geometry": "Export each matrix size and spacing as its own series; one was kept.",
    "duplicate_position": "Remove the copy, or export repeated acquisitions as own series.",
    "missing_slice": "Export the series again with all slices.",
    "uneven_spacing": "Resample before measuring along the slice axis.",
    "gantry_tilt": "Undo the shear before measuring across slices.",
}
"""Every reason of a `Problem`, with what the owner can do."""


class PixelError(DataError):
    """Pixels could not be read. `problem` is the row for the table of problems."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.reason}: {problem.detail} {problem.action}")
        self.problem = problem

    def __reduce__(self) -> tuple[type["PixelError"], tuple[Problem]]:
        # The default would hand the message, not the problem, to another process.
        return type(self), (self.problem,)


def problem(locator: Locator, reason: str, detail: str) -> Problem:
    """Build a problem with the action that belongs to its reason.

    Args:
        locator: Where it was found.
        reason: A word of `REASONS`.
        detail: One sentence without any content of the file's text fields.

    Returns:
        The problem.
    """
    return Problem(locator=locator, reason=reason, detail=detail, action=REASONS[reason])
