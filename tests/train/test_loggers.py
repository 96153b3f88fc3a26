import builtins
import sys
import types

import pytest

from scoutview.base.errors import MissingExtraError
from scoutview.train.loggers import open_loggers

CONFIG = {"seed": 3, "views": {"size": (28, 28)}}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_open_loggers__a_missing_package_names_the_extra(name, tmp_path, monkeypatch):
    original = builtins.__import__

    def absent(module, *arguments, **named):
        if module.split(".")[0] == name or module == "torch.utils.tensorboard":
            raise ImportError(f"No module named {name!r}")
        return original(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"'{name}'.*scoutview\[track\]"):
        open_loggers([name], tmp_path, CONFIG)


def test_mlflow_and_wandb__receive_config_and_metrics(tmp_path, monkeypatch):
    calls = []

    def record(name):
        return lambda *arguments, **named: calls.append((name, arguments, named))

    run = types.SimpleNamespace(log=record("wandb.log"), finish=record("wandb.finish"))
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **named: (record("wandb.init")(**named), run)[1]
    mlflow = types.ModuleType("mlflow")
    for name in ("start_run", "log_dict", "log_metrics", "end_run"):
        setattr(mlflow, name, record(f"mlflow.{name}"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    for logger in open_loggers(["mlflow", "wandb"], tmp_path / "run", CONFIG):
        logger.log({"loss": 1.5}, 7)
        logger.close()
    plain = {"seed": 3, "views": {"size": [28, 28]}}
    assert calls == [
        ("mlflow.start_run", (), {"run_name": "run"}),
        ("mlflow.log_dict", (plain, "config.json"), {}),
        ("wandb.init", (), {"name": "run", "dir": str(tmp_path / "run"), "config": plain}),
        ("mlflow.log_metrics", ({"loss": 1.5},), {"step": 7}),
        ("mlflow.end_run", (), {}),
        ("wandb.log", ({"loss": 1.5},), {"step": 7}),
        ("wandb.finish", (), {}),
    ]
