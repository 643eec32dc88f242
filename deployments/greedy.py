"""Greedy requests in the only form vLLM takes: it refuses several answers of one, and a nucleus of nothing."""

from typing import Any


def greedy_as_vllm_takes_it(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with `top_p` 0 as `temperature` 0, and that with `n` over 1 as a draw among the one likeliest token."""
    if body.get("top_p") == 0:
        body = {name: value for name, value in body.items() if name != "top_p"} | {"temperature": 0.0}
    if body.get("temperature") != 0 or (body.get("n") or 1) == 1:
        return body
    kept = {name: value for name, value in body.items() if name not in {"top_p", "min_p"}}
    return kept | {"temperature": 1.0, "top_k": 1}
