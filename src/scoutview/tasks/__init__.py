"""Transfer tasks: one file each, the contract of the methods plus `predict`."""

from importlib import import_module
from typing import Any, Final

from scoutview.base.errors import unknown

TASKS: Final = {
    "classification": "scoutview.tasks.classification:ClassificationConfig:Classification",
}
"""Name of each task and where its configuration and class are; listing them loads no torch."""


def resolve(name: str) -> tuple[Any, Any]:
    """Load a task.

    Args:
        name: One of `TASKS`.

    Returns:
        Its configuration class and its objective class.

    Raises:
        ConfigError: There is no such task.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    module_name, config, objective = TASKS[name].split(":")
    module = import_module(module_name)
    return getattr(module, config), getattr(module, objective)
