import math
from typing import Any

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import validate
from aihub.finetuning.settings import FineTuningSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0),
        ("rank", 10**6),
        ("rank", 8.5),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", 10),
        ("learning_rate", 0),
        ("learning_rate", -1e-4),
        ("method", "dora"),
        ("epochs", 0),
        ("epochs", "many"),
        ("batch_size", 0),
        ("gradient_accumulation", -1),
        ("alpha", 0),
        ("dropout", 1.0),
        ("max_tokens", 1),
        ("warmup_share", 0.9),
        ("weight_decay", math.nan),
        ("validation_share", 1),
        ("early_stopping_patience", 0),
        ("checkpoint_every_steps", 0),
        ("precision", "float16"),
        ("seed", -1),
        ("learning_rates", 1e-4),
    ],
)
def test_wrong_value_is_refused_with_the_name_of_its_field(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=name) as caught:
        validate(FineTuningSettings, {name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("names", [[], ["q_proj; rm"], [""], [".*"]])
def test_target_modules_are_names_not_patterns(names: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match="target_modules"):
        validate(FineTuningSettings, {"target_modules": names})


def test_values_of_the_earlier_service_are_taken() -> None:
    settings = validate(FineTuningSettings, {"method": "qlora", "learning_rate": 2e-4, "epochs": 3, "target_modules": ["q_proj"]})
    assert (settings.method, settings.learning_rate, settings.epochs) == ("qlora", 2e-4, 3)
    assert settings.target_modules == ("q_proj",)
