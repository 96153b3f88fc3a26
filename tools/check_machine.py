"""Say what is missing before anything is installed. Standard library only, any Python 3."""

import shutil
import sys

PYTHONS = ((3, 11), (3, 14))
DISK_GB = 12


def main() -> int:
    """Check Python version, venv and free disk; print one line per thing that is missing."""
    missing = []
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        found = f"{sys.version_info[0]}.{sys.version_info[1]}"
        missing.append(
            f"Python 3.11, 3.12 or 3.13 is needed, found {found};"
            " install one or choose it with: make PYTHON=/path/to/python3.12 demo"
        )
    free = shutil.disk_usage(".").free / 1e9
    if free < DISK_GB:
        missing.append(
            f"{DISK_GB} GB of free disk are needed (PyTorch with CUDA takes most of it),"
            f" found {free:.1f} GB; free some, or clone scoutview onto a larger disk."
        )
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        missing.append(
            "Python's venv module is incomplete (no ensurepip); on Debian: apt install python3-venv"
        )
    for line in missing:
        print(f"scoutview: {line}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
