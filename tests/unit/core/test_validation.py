from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import ClosedModel, validate


class Apple(ClosedModel):
    kind: Literal["apple"]
    weight_g: Annotated[float, Field(gt=0, le=1000)]


class Pear(ClosedModel):
    kind: Literal["pear"]


class Basket(ClosedModel):
    fruit: list[Annotated[Apple | Pear, Field(discriminator="kind")]] = []
    label: str | list[str] | None = None
    count: int | None = None


CASES: list[tuple[Any, str | None, str]] = [
    ([], None, "The request must be an object."),
    ({"fruit": [{"kind": "apple"}]}, "fruit.0.weight_g", "'fruit.0.weight_g' is required."),
    ({"fruit": [{"kind": "apple", "weight_g": 0}]}, "fruit.0.weight_g", "'fruit.0.weight_g' must be greater than 0."),
    ({"fruit": [{"kind": "apple", "weight_g": 5000}]}, "fruit.0.weight_g", "'fruit.0.weight_g' must be at most 1000."),
    ({"fruit": [{"kind": "plum"}]}, "fruit.0.kind", "'fruit.0.kind' must be one of 'apple', 'pear'."),
    ({"fruit": [{}]}, "fruit.0.kind", "'fruit.0.kind' is required."),
    ({"fruit": [5]}, "fruit.0", "'fruit.0' must be an object."),
    ({"label": 5}, "label", "'label' must be a string or a list."),
    ({"label": ["a", 5]}, "label.1", "'label.1' must be a string."),
    ({"colour": "red"}, "colour", "'colour' is not a known field here; check its spelling."),
    ({"count": "5"}, "count", "'count' must be an integer."),
    ({"count": True}, "count", "'count' must be an integer."),
    ({"count": 1.0}, "count", "'count' must be an integer."),
    ({"count": "5", "colour": "red"}, "count", "'count' must be an integer. Also wrong: colour."),
]


@pytest.mark.parametrize(("data", "param", "message"), CASES)
def test_finding_becomes_one_sentence_with_the_path(data: Any, param: str | None, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate(Basket, data)
    assert caught.value.param == param
    assert caught.value.message == message


def test_good_data_becomes_the_request() -> None:
    assert validate(Basket, {"label": ["táo"]}).label == ["táo"]


def test_error_text_never_holds_the_input() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate(Basket, {"count": "mật khẩu"})
    assert "mật khẩu" not in caught.value.message
    assert "mật khẩu" not in str(caught.value.__cause__)
