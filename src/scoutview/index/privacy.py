"""Pseudonyms, the key behind them, and the gate that text of a file must pass.

A pseudonym is the first 16 hex digits of HMAC-SHA256(key, kind | original id): the same id gives
the same pseudonym in all cohorts that share the key, and nothing without it.
"""

import hashlib
import hmac
import os
import re
import secrets
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from scoutview.base.errors import ConfigError, DataError
from scoutview.base.files import atomic_writer
from scoutview.pixels import vocabulary

PRIVATE_MODE: Final = 0o600
"""Permission bits of files that hold original ids or the key: the owner reads, nobody else."""

_KEY_BYTES: Final = 32
_SOURCES: Final = frozenset({"dicom", "nifti", "raster", "npz"})
_SPLITS: Final = frozenset({"train", "val", "test"})
_PHOTOMETRIC: Final = frozenset(
    {
        "MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422",
        "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT", "XYB",
    }
)  # fmt: skip


@lru_cache(maxsize=1 << 10)
def pseudonym(key: bytes, kind: str, original: str) -> str:
    """Return the pseudonym of an original id, 16 hex digits.

    Args:
        key: The cohort's secret key.
        kind: "patient", "study", "series", "image" or "file": equal ids of two kinds stay apart.
        original: The id in clear; "" (no id) stays "".
    """
    if not original:
        return ""
    inner, outer = (pad.copy() for pad in _pads(key))
    inner.update(f"{kind}|{original}".encode("utf-8", "surrogatepass"))
    outer.update(inner.digest())
    return str(outer.digest()[:8].hex())


@lru_cache(maxsize=4)
def _pads(key: bytes) -> tuple[Any, Any]:
    """Start the two hashes of HMAC (RFC 2104) once: half the time of `hmac.digest`."""
    block = key.ljust(64, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
    return inner, outer


def image_key(image_id: str) -> int:
    """Return the first 63 bits of an image's pseudonym: the address of its randomness."""
    return int(image_id, 16) >> 1


def fingerprint(key: bytes) -> str:
    """Return a public mark of a key: equal marks mean that pseudonyms can be compared."""
    return hmac.digest(key, b"fingerprint", "sha256")[:8].hex()


def new_key() -> bytes:
    """Draw a key from the operating system."""
    return secrets.token_bytes(_KEY_BYTES)


def key_from_file(path: str | Path) -> bytes:
    """Read a shared key, or create the file with a new one that only the owner can read.

    Raises:
        DataError: The file does not hold a key.
        ConfigError: It is a folder, or others may read the file.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(
            "The key must be a file, but a folder came; name a file, as project.key in that folder."
        )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_key(path, new_key())
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ConfigError("The key file must be readable by its owner only; run chmod 600 on it.")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise DataError("The key file must hold 64 hex digits; name a new file to make one.") from (
            error
        )
    if len(key) != _KEY_BYTES:
        raise DataError(f"The key must have {_KEY_BYTES} bytes, got {len(key)}; make a new one.")
    return key


def write_key(path: str | Path, key: bytes) -> None:
    """Write a key as hex digits, for the owner only."""
    with atomic_writer(path, mode=PRIVATE_MODE) as stream:
        stream.write(key.hex().encode() + b"\n")


def signature(*parts: str | int) -> int:
    """Return 63 bits that change when a file's name, size or time of change does."""
    text = "\0".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@lru_cache(maxsize=4096)
def word(field: str, value: str) -> str:
    """Let a word of a field's closed vocabulary pass; anything else becomes "other".

    The readers map text already; this gate holds even where one forgets to.
    """
    return value if value in _closed(field) else "other"


def split_word(value: str) -> str:
    """Let the name of a split pass; anything else means that there is none."""
    return value if value in _SPLITS else ""


@lru_cache(maxsize=16)
def _closed(field: str) -> frozenset[str]:
    if field == "dtype":
        return frozenset(np.dtype(code).name for code in "bBhHiIqQefd?") | {""}
    if field == "transfer_syntax":
        from pydicom.uid import AllTransferSyntaxes  # not for all who only open a cohort

        return frozenset(map(str, AllTransferSyntaxes)) | {"", "unknown"}
    known: dict[str, frozenset[str]] = {
        "source": _SOURCES,
        "modality": frozenset(vocabulary.MODALITIES),
        "body_part": frozenset(vocabulary.BODY_PARTS),
        "projection": frozenset(vocabulary.PROJECTIONS),
        "laterality": frozenset(vocabulary.LATERALITIES),
        "photometric": _PHOTOMETRIC,
    }
    return known[field] | {"unknown"}


def without_names(text: str, path: str) -> str:
    """Take a file's path, and every part of it, out of a sentence about the file."""
    parts = sorted({path, *Path(path).parts, Path(path).stem}, key=len, reverse=True)
    for part in parts:
        if len(part) > 1:
            text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "<file>", text)
    return text
