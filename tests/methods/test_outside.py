"""Methods of another package: found by name, on request only, from Python and from the shell."""

import importlib.metadata
import json
import sys

import pytest
from tests.cohorts import TINY, radiograph_cohort
from tests.command_line import scoutview

from scoutview.base.errors import ConfigError
from scoutview.methods import config_class, method_class
from scoutview.methods.simclr import SimCLR
from scoutview.results.run import RunFolder

CODE = """
from scoutview.methods.simclr import SimCLR, SimCLRConfig


class OwnConfig(SimCLRConfig):
    temperature: float = 0.3


class Own(SimCLR):
    pass


METHOD = (OwnConfig, Own)
ALONE = Own
"""

POINTS = """
[scoutview.methods]
own_simclr = own_methods:METHOD
own_single = own_methods:ALONE
own_gone = own_methods_that_went:METHOD
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package as pip leaves it, in a folder of its own."""
    site = tmp_path / "site"
    metadata = site / "own_methods-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "own_methods.py").write_text(CODE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own-methods\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("own_methods", None)


def test_outside__a_method_of_an_installed_package_has_a_name(installed):
    assert config_class("own_simclr")().temperature == 0.3
    assert issubclass(method_class("own_simclr"), SimCLR)


def test_outside__is_not_there_without_its_package():
    with pytest.raises(ConfigError, match="Unknown method 'own_simclr'"):
        config_class("own_simclr")


def test_outside__a_wrong_name_gets_the_nearest_of_all(installed):
    with pytest.raises(ConfigError, match="Did you mean 'own_simclr'"):
        config_class("own_simcl")


@pytest.mark.parametrize("name", ["own_single", "own_gone"])
def test_outside__a_wrong_entry_point_is_named(installed, name):
    with pytest.raises(ConfigError, match=f"'{name}' comes from 'own_methods"):
        config_class(name)


def test_outside__packages_are_not_looked_through_for_known_names(monkeypatch):
    def refuse(**selection):
        raise AssertionError("nobody asked for another package")

    monkeypatch.setattr(importlib.metadata, "entry_points", refuse)
    assert config_class("simclr").__name__ == "SimCLRConfig"
    with pytest.raises(AssertionError, match="nobody asked"):
        config_class("own_simclr")


def test_outside__trains_from_the_shell(installed, tmp_path):
    cohort = radiograph_cohort(tmp_path, {"train": 24, "val": 8, "test": 8})
    words = ["--out", tmp_path / "run", "--samples", 16, "--batch-size", 8]
    words += ["--set=probe_every=null", f"--set=backbone.name={TINY.name}"]
    words += [f"--set=backbone.stage_widths={list(TINY.stage_widths)}"]
    words += [f"--set=backbone.stage_depths={list(TINY.stage_depths)}"]
    words += ["--method-set", "hidden_dim=16", "--method-set", "output_dim=8"]
    assert scoutview("pretrain", cohort, "--method", "own_simclr", *words) == 0
    run = RunFolder.open(tmp_path / "run")
    assert run.finished
    assert run.config["method"]["name"] == "own_simclr"
    assert run.config["method"]["temperature"] == 0.3
    assert "own_methods" not in json.dumps(run.config)
