from pathlib import Path
from typing import Literal, Self

import pytest
from pydantic import Field, model_validator

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


class Budget(Config):
    epochs: int | None = None
    samples: int | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.epochs is not None and self.samples is not None:
            raise ValueError("give epochs or samples, not both")
        return self


class Whole(Config):
    budget: Budget = Budget()


def test_load__a_rule_over_a_whole_group_does_not_print_all_that_came() -> None:
    """The text of such a rule names the settings; the rest of the group would only hide it."""
    both = {"epochs": "2", "samples": "5"}
    with pytest.raises(ConfigError) as refused:
        Budget.load(None, both)
    assert str(refused.value) == "Budget: give epochs or samples, not both."
    with pytest.raises(ConfigError) as refused:
        Whole.load(None, {f"budget.{name}": value for name, value in both.items()})
    assert str(refused.value) == "Whole: budget: give epochs or samples, not both."


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


class Rate(Config):
    kind: Literal["rate"] = "rate"
    peak: float = 1.0
    decay: float = 0.0


class Other(Config):
    kind: Literal["other"] = "other"
    peak: float = 2.0
    decay: float = 3.0


class Wide(Config):
    views: Views = Views(size=224)
    rate: Rate | Other = Field(default=Rate(peak=0.3, decay=0.1), discriminator="kind")


class Outer(Config):
    inner: Wide = Wide(views=Views(size=96))


def test_config__a_group_written_in_part_keeps_the_rest_of_its_default() -> None:
    config = Outer.load(None, {"inner.rate.peak": "5"})
    assert config.inner.rate == Rate(peak=5, decay=0.1)
    assert config.inner.views.size == 96, "not Wide's own 224"
    assert config.written() == {"inner": {"rate": {"peak": 5.0}}}
    assert Outer.build(config.written()) == config


def test_config__another_kind_starts_from_its_own_defaults() -> None:
    config = Wide.build({"rate": {"kind": "other", "peak": 5}})
    assert config.rate == Other(peak=5)
    assert Wide.build(config.written()) == config


@pytest.mark.parametrize(
    "config",
    [
        Wide(rate=Rate(peak=5)),
        Wide(rate=Rate(kind="rate")),
        Wide(rate=Other(peak=5)),
        Outer(inner=Wide()),
        Outer(inner=Wide(rate=Rate())),
    ],
)
def test_config__an_object_is_taken_as_it_is_and_written_so(config: Config) -> None:
    again = type(config).build(config.written())
    assert again == config
    assert again.written() == config.written()


def test_over__takes_what_was_not_written_from_another_default() -> None:
    usual = Rate(peak=7, decay=8)
    assert Wide.build({"rate": {"peak": 5}}).rate.over(usual) == Rate(peak=5, decay=8)
    assert Wide.build({"rate": {"peak": 5}}).rate.over(Other()) == Other(peak=5)
    assert Wide(rate=Rate(peak=5)).rate.over(usual) == Rate(peak=5, decay=0)
    assert Wide.build({"rate": {"kind": "other"}}).rate.over(usual) == Other()
