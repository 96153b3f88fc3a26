"""Say what is missing before anything is installed. Standard library only, any Python 3."""

import os
import shutil
import sys

PYTHONS = ((3, 11), (3, 14))
FRESH_GB, INSTALLED_GB = 12, 1
"""Free disk that an installation needs, and that a run needs when PyTorch is there already."""


def missing(version, free_gb, installed, has_pip):
    """List what stands in the way, one sentence each."""
    found = []
    if not PYTHONS[0] <= version < PYTHONS[1]:
        found.append(
            "Python 3.11, 3.12 or 3.13 is needed, found {}.{}; install one or choose it with:"
            " make PYTHON=/path/to/python3.12 demo".format(*version)
        )
    needed = INSTALLED_GB if installed else FRESH_GB
    if free_gb < needed:
        found.append(
            "{} GB of free disk are needed{}, found {:.1f} GB; free some, or clone scoutview onto a"
            " larger disk.".format(
                needed, "" if installed else " (PyTorch takes most of it)", free_gb
            )
        )
    if not installed and not has_pip:
        found.append(
            "Python's venv module is incomplete (no ensurepip); on Debian: apt install python3-venv"
        )
    return found


def main():
    """Check this machine; print what is missing and return 1 if anything is."""
    try:
        import ensurepip
    except ImportError:
        ensurepip = None
    lines = missing(
        sys.version_info[:2],
        shutil.disk_usage(".").free / 1e9,
        os.path.exists(os.path.join(".venv", ".core")),
        ensurepip is not None,
    )
    for line in lines:
        print("scoutview: " + line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
