"""Where a result comes from: versions, hardware, threads and commit, without importing torch."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = (
    "scoutview",
    "torch",
    "torchvision",
    "timm",
    "lightning-fabric",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "pydicom",
    "nibabel",
    "opencv-python-headless",
    "blosc2",
)
"""Packages whose version can change a number."""

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def environment(source: str | Path | None = None) -> dict[str, Any]:
    """Describe this machine and installation in plain values; no host, user or path is named.

    Args:
        source: A folder whose Git commit is recorded; the package's own folder by default.

    Returns:
        Keys `python`, `platform`, `packages` (name to version), `commit` (hash, with "+changes"
        when the tree is not clean; "" outside Git), `cpu`, `cores`, `memory_gib`, `threads`,
        `gpus` (names; only when torch was imported already), `time` (UTC, ISO 8601).
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions(),
        "commit": commit(Path(source) if source is not None else Path(__file__).parent),
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": memory_gib(),
        "threads": threads(),
        "gpus": gpus(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Name what differs between two environments in a way that can change the last bits.

    Args:
        before: The environment of the run that is resumed.
        now: The environment of this process.

    Returns:
        One sentence per difference; empty when results should be bit-equal.
    """
    found = []
    for key in ("python", "platform", "cpu", "threads", "gpus"):
        if before.get(key) != now.get(key):
            found.append(f"{key} was {before.get(key)}, is {now.get(key)}.")
    old, new = before.get("packages", {}), now.get("packages", {})
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            found.append(f"{name} was {old.get(name, 'absent')}, is {new.get(name, 'absent')}.")
    return found


def versions() -> dict[str, str]:
    """Installed versions of `PACKAGES`; packages that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path) -> str:
    """Commit of the Git repository around a folder, "" if there is none or Git is missing."""
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return ""
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return head + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_model() -> str:
    """Name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> float | None:
    """Installed memory in GiB, None where the system does not say."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(size / 2**30, 1)


def threads() -> dict[str, str]:
    """Thread settings: environment variables, and torch's own when it was imported already."""
    found = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    if (torch := sys.modules.get("torch")) is not None:
        found["torch"] = str(torch.get_num_threads())
    return found


def gpus() -> list[str]:
    """Names of the CUDA devices when torch was imported already, else nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
