"""Fields of a form are read as the request's model takes them."""

from typing import Any

import pytest

from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import InvalidRequestError
from aihub.http.form_values import read_form_values


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("user", "123", "123"),
        ("user", "[phở", "[phở"),
        ("stop", "1", "1"),
        ("stop", "true", "true"),
        ("stop", '["1", "hết"]', ["1", "hết"]),
        ("tool_choice", "auto", "auto"),
        ("tool_choice", '{"type": "function"}', {"type": "function"}),
        ("reasoning_effort", "low", "low"),
        ("logprobs", "False", False),
        ("logprobs", "TRUE", True),
        ("logprobs", "maybe", "maybe"),
        ("max_tokens", " 7 ", 7),
        ("temperature", "0.5", 0.5),
        ("temperature", "hot", "hot"),
        ("seed", "null", None),
        ("messages", "[]", []),
        ("messages", [], []),
        ("nobody", "1", "1"),
    ],
)
def test_value_is_json_where_the_model_takes_no_text(name: str, text: Any, value: Any) -> None:
    assert read_form_values(ChatCompletionRequest, {name: text}) == {name: value}


@pytest.mark.parametrize("text", ["[", "{", "[" * 20_000, '{"a": 1, "a": 2}'])
def test_broken_json_names_its_field(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="retrieval") as refused:
        read_form_values(ChatCompletionRequest, {"retrieval": text})
    assert refused.value.param == "retrieval"
