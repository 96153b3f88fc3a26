"""What users can rely on: verbs with their flags, functions of the API, and settings.

`python -m tests.cli.surface` writes surface.json after a wanted change; CHANGELOG says it too.
"""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

from scoutview import api
from scoutview.base.config import Config
from scoutview.cli import app
from scoutview.methods import METHODS
from scoutview.tasks import TASKS

FILE = Path(__file__).parent / "surface.json"


def verbs() -> list[str]:
    """Names of the commands."""
    return [name for name in app if not name.startswith("-")]


def flags(verb: str) -> list[str]:
    """Flags of a command, as users type them; positional arguments in capitals."""
    shared = app.default_parameter
    arguments = app[verb].assemble_argument_collection(default_parameter=shared)
    return sorted(name for argument in arguments for name in argument.names)


def surface() -> dict[str, Any]:
    """Everything public."""
    names: dict[str, list[str]] = {}
    for module in pkgutil.iter_modules(api.__path__, "scoutview.api."):
        loaded = importlib.import_module(module.name)
        for name, thing in vars(loaded).items():
            verb = module.name == f"scoutview.api.{name}"
            settings = inspect.isclass(thing) and issubclass(thing, Config)
            if verb or (settings and thing.__module__ == module.name):
                names[f"{module.name}.{name}"] = _parameters(thing)
    return {
        "commands": {verb: flags(verb) for verb in sorted(verbs())},
        "api": dict(sorted(names.items())),
        "methods": sorted(METHODS),
        "tasks": sorted(TASKS),
    }


def _parameters(thing: Any) -> list[str]:
    """Parameters of a function, or settings of a configuration."""
    if inspect.isclass(thing):
        return sorted(thing.model_fields)
    return [name for name in inspect.signature(thing).parameters if not name.startswith("_")]


if __name__ == "__main__":
    FILE.write_text(json.dumps(surface(), indent=2) + "\n", encoding="utf-8")
