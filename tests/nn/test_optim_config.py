import pytest
from pydantic import TypeAdapter, ValidationError

from scoutview.nn.optim_config import CosineSchedule, LARSConfig, OptimizerConfig


def test_optimizer_config__is_chosen_by_its_kind():
    read = TypeAdapter(OptimizerConfig).validate_python({"kind": "lars", "lr": 0.2})
    assert read == LARSConfig(lr=0.2)


def test_optimizer_config__refuses_settings_of_another_kind():
    with pytest.raises(ValidationError, match="trust_coefficient"):
        TypeAdapter(OptimizerConfig).validate_python(
            {"kind": "sgd", "lr": 0.2, "trust_coefficient": 1.0}
        )


def test_schedule__shares_are_between_zero_and_one():
    with pytest.raises(ValidationError):
        CosineSchedule(final=1.5)
