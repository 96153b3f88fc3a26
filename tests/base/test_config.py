from pathlib import Path

import pytest
from pydantic import Field

from scoutview.base.config import Config
from scoutview.base.errors import ConfigError


class Views(Config):
    size: int = Field(default=32, gt=0)


class Method(Config):
    views: Views = Views()
    temperature: float = Field(default=0.1, gt=0)
    """Softmax temperature."""


def test_load__file_then_overrides(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("temperature: 1e-3\nviews: {size: 64}\n")
    config = Method.load(tmp_path / "m.yaml", {"views.size": "96"})
    assert (config.temperature, config.views.size) == (0.001, 96)


def test_load__an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'views\.sise'. Did you mean 'views\.size'"):
        Method.load(None, {"views.sise": "3"})


def test_load__out_of_range_says_what_came() -> None:
    with pytest.raises(ConfigError, match=r"temperature: .*greater than 0, got -1"):
        Method.load(None, {"temperature": "-1"})


def test_load__a_value_is_not_a_group() -> None:
    with pytest.raises(ConfigError, match="'temperature' is a value, not a group"):
        Method.load(None, {"temperature": "1", "temperature.x": "2"})


def test_load__a_file_that_is_a_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected keys and values, got list"):
        Method.load(tmp_path / "m.yaml")


def test_config__is_frozen_and_documents_its_fields() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Method().temperature = 2.0  # type: ignore[misc]
    assert Method.model_fields["temperature"].description == "Softmax temperature."


def test_written__is_what_build_turns_into_the_same_again() -> None:
    config = Method.build({"views": {"size": 48}})
    assert config.written() == {"views": {"size": 48}}
    again = Method.build(config.written())
    assert again == config
    assert (again.model_fields_set, again.views.model_fields_set) == ({"views"}, {"size"})
    full = Method.build(config.model_dump(mode="json"))
    assert full.model_fields_set != config.model_fields_set, "a full dump would not do"
