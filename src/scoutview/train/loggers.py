"""Metrics to TensorBoard, MLflow or Weights & Biases, besides the run's own metrics.jsonl.

All are optional packages, imported when asked for.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from scoutview.base.errors import missing_extra
from scoutview.train.config import LoggerName


class MetricLogger(Protocol):
    """Somewhere that metrics go."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars of one step."""

    def close(self) -> None:
        """Write what is buffered."""


def open_loggers(
    names: Sequence[LoggerName], folder: Path, config: Mapping[str, Any]
) -> list[MetricLogger]:
    """Open loggers by name.

    Args:
        names: Which.
        folder: The run's folder; local files go below it, and its name is the run's name.
        config: The run's configuration, recorded with the metrics.

    Raises:
        MissingExtraError: A package is not installed.
    """
    kinds: dict[LoggerName, type[MetricLogger]] = {
        "tensorboard": _TensorBoard,
        "mlflow": _MLflow,
        "wandb": _WandB,
    }
    return [kinds[name](folder, config) for name in names]  # type: ignore[call-arg]


class _TensorBoard:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard", "track") from error
        self._writer: Any = SummaryWriter(folder / "tensorboard")
        self._writer.add_text("config", f"```json\n{json.dumps(dict(config), default=str)}\n```")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._mlflow = _optional("mlflow")
        self._mlflow.start_run(run_name=folder.name)
        self._mlflow.log_dict(json.loads(json.dumps(dict(config), default=str)), "config.json")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _WandB:
    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb = _optional("wandb")
        plain = json.loads(json.dumps(dict(config), default=str))
        self._run = wandb.init(name=folder.name, dir=str(folder), config=plain)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def _optional(package: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise missing_extra(package, "track") from error
