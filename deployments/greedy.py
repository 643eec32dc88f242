"""Several answers of a greedy request, which vLLM refuses and OpenAI allows."""

from collections.abc import Mapping
from typing import Any


def several_greedy(body: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body that vLLM takes: with `n` over 1, greedy becomes a draw among the one likeliest token, which is the same.

    Args:
        defaults: What a request gets where it says nothing, by field.
    """
    asked = body.get("temperature")
    temperature = defaults.get("temperature") if asked is None else asked
    if temperature != 0 or (body.get("n") or 1) == 1:
        return body
    return body | {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}
