"""Versions of what stands in run folders and studies, and how older versions are read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from scoutview.base.errors import RunError
from scoutview.base.files import read_json

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

VERSIONS: Final = {
    "run": 1,
    "environment": 1,
    "summary": 1,
    "study": 2,
    "metrics": 1,
    "predictions": 1,
    "embeddings": 1,
}
"""Present version of every schema. A changed field needs the next number and an upgrade."""

UPGRADES: Final[dict[tuple[str, int], Upgrade]] = {
    ("study", 1): lambda content: content,  # it lacks what 2 added, whose defaults mean "unknown"
}
"""By schema and version: the function that turns content of that version into the next one's."""


def read_versioned(path: str | Path, schema: str) -> dict[str, Any]:
    """Read a JSON file of any version that this scoutview knows.

    Args:
        path: The file.
        schema: A key of `VERSIONS`.

    Returns:
        The content in the present version, without schema and version.

    Raises:
        RunError: The file is missing, is another schema, is newer, or a step from its version to
            the present one is missing.
    """
    content = read_json(path, schema=schema, version=VERSIONS[schema])
    found = content.pop("schema_version")
    return upgraded(content, schema, found, path)


def upgraded(
    content: dict[str, Any],
    schema: str,
    found: int,
    path: str | Path,
    *,
    upgrades: Mapping[tuple[str, int], Upgrade] = UPGRADES,
    versions: Mapping[str, int] = VERSIONS,
) -> dict[str, Any]:
    """Bring content of an older version to the present one, step by step.

    Raises:
        RunError: There is no way from the version found.
    """
    for version in range(found, versions[schema]):
        if (schema, version) not in upgrades:
            raise RunError(
                f"{path}: {schema} version {version} cannot be read any more; use the scoutview"
                " that wrote it."
            )
        content = upgrades[schema, version](content)
    return content
