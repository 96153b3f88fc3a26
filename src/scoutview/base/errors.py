"""One family of errors. Each says what must hold, what came, and what to do."""

import difflib
from collections.abc import Iterable


class ScoutviewError(Exception):
    """Base of every error that scoutview raises on purpose."""


class ConfigError(ScoutviewError):
    """A setting is unknown, out of range, or cannot work with this data."""


class DataError(ScoutviewError):
    """Pixels, headers, labels or tables are not what they must be."""


class JoinError(DataError):
    """A table does not fit the cohort it is joined to."""


class LeakageError(DataError):
    """Patients or pixels cross between parts of the data that must be apart."""


class RunError(ScoutviewError):
    """A run, study, cohort or store folder is missing, occupied or incomplete."""


class CheckpointError(RunError):
    """A checkpoint is damaged or belongs to another configuration."""


class MissingExtraError(ScoutviewError):
    """An optional package is needed that is not installed."""


class ScoutviewWarning(UserWarning):
    """Something works, but not as the user may think."""


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for a name that is not in a list of known names.

    Args:
        kind: What the name should be, as in "method".
        name: What came.
        known: The names that would have been right.

    Returns:
        The error, to be raised by the caller.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Build the error for an optional package that is not installed."""
    return MissingExtraError(
        f"This needs the package {package!r}; install it with: pip install 'scoutview[{extra}]'."
    )


def masked(value: object) -> str:
    """Show the form of an identifier without its content: PAT-0042 becomes AAA-9999.

    Args:
        value: An identifier that must not appear in a message.

    Returns:
        Letters as A, digits as 9, everything else kept; at most 24 characters.
    """
    shape = "".join("9" if c.isdigit() else "A" if c.isalpha() else c for c in str(value)[:24])
    return shape + ("…" if len(str(value)) > 24 else "")
