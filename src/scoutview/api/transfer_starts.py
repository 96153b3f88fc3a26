"""What a transfer starts from: a run, a file of weights, public weights, nothing, or raw pixels."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from scoutview.api.transfer_config import TransferConfig
from scoutview.api.transfer_runs import FineTune, Start
from scoutview.base.errors import ConfigError
from scoutview.nn.backbones import BackboneConfig
from scoutview.results.run import RunFolder
from scoutview.tasks.probe import LogisticRegression, RandomForest


def read_starts(initialisations: Sequence[str | Path], config: TransferConfig) -> tuple[Start, ...]:
    """Find out what several initialisations are, which must differ in name.

    Raises:
        ConfigError: Two have the same name, or one is nothing that `read_start` knows.
    """
    starts = tuple(read_start(one, config) for one in initialisations)
    counts = Counter(start.name for start in starts)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ConfigError(
            f"Initialisations need different names, but {', '.join(twice)} comes more than once;"
            f" name each as NAME=PATH, for example first={initialisations[0]}."
        )
    return starts


WORDS: Final = ("imagenet", "random", "raw_pixels")
"""Initialisations that are no paths."""


def split_name(initialisation: str | Path) -> tuple[str | None, str]:
    """Divide "NAME=PATH"; the name is None where there is none, or "=" is part of a path."""
    word = str(initialisation)
    name, equals, place = word.partition("=")
    if not (name and equals) or "/" in name or Path(word).exists():
        return None, word
    return name, place


def read_start(initialisation: str | Path, config: TransferConfig) -> Start:
    """Find out what an initialisation is, and what it is called: its own name, then `config.name`.

    Raises:
        ConfigError: It is neither a run, a file, nor a known name, or does not fit the mode.
    """
    pixels = isinstance(config.mode, LogisticRegression | RandomForest)
    name, word = split_name(initialisation)
    name = name or config.name
    if pixels != (word == "raw_pixels"):
        raise ConfigError(
            f"Mode {config.mode.kind!r} with initialisation {word!r}: raw pixels need both the"
            " initialisation 'raw_pixels' and the mode 'logistic_regression' or 'random_forest'."
        )
    trained = isinstance(config.mode, FineTune) and config.mode.kind == "fine_tune"
    if word == "raw_pixels":
        return Start(name or word, "raw_pixels", config.backbone)
    if word == "random":
        kind: Literal["supervised", "random"] = "supervised" if trained else "random"
        bare = config.backbone.model_copy(update={"weights": None})
        return Start(name or kind, kind, bare)
    if word == "imagenet":
        public = config.backbone.model_copy(update={"weights": "imagenet"})
        return Start(name or word, "imagenet", public)
    path = Path(word)
    if (path / "config.json").is_file():
        return _start_of_run(path, name)
    if path.is_file():
        loaded = config.backbone.model_copy(update={"weights": str(path)})
        digest = _sha256(path)
        return Start(name or path.stem, "file", loaded, file=path, weights=digest)
    raise ConfigError(
        f"Initialisation {word!r} is neither a run folder, a file of weights, 'imagenet', 'random'"
        " nor 'raw_pixels'; check the path."
    )


def _start_of_run(path: Path, name: str | None) -> Start:
    run = RunFolder.open(path)
    if not run.backbone.is_file():
        raise ConfigError(f"{path} has no backbone.safetensors; finish the run with --resume.")
    values = dict(run.config["backbone"])
    backbone = BackboneConfig.build(values | {"weights": str(run.backbone)})
    method = str(run.config["method"]["name"])
    weights = _sha256(run.backbone)
    return Start(name or method, "run", backbone, method=method, run=path, weights=weights)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
