"""Event streams of the real default model, compared with transcripts kept in `golden/`.

What differs between machines and runs (ids, times, the words and how many they are) is replaced; order, shape and every
other field must stay. `AIHUB_WRITE_GOLDEN=1` writes them anew.
"""

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import RunningHub

GOLDEN = Path(__file__).parent / "golden"
# Each token is a whole word here: how letters of several tokens fall into events would depend on timing.
QUESTION = [{"role": "user", "content": "Name the capital of France."}]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("chat/completions", {"messages": QUESTION}),
    "chat_usage": ("chat/completions", {"messages": QUESTION, "stream_options": {"include_usage": True}}),
    "chat_logprobs": ("chat/completions", {"messages": QUESTION, "logprobs": True, "top_logprobs": 1}),
    "completion": ("completions", {"prompt": "One, two,"}),
    "too_long": ("chat/completions", {"messages": [{"role": "user", "content": "word " * 9000}]}),
}
VARYING = {"id", "created", "content", "text", "token", "bytes", "logprob", "tokens", "system_fingerprint", "message"}
COUNTS = {"prompt_tokens", "completion_tokens", "total_tokens"}


def _level(value: Any, key: str = "") -> Any:
    """Replace what varies by its name."""
    if isinstance(value, dict):
        return {name: _level(item, name) for name, item in sorted(value.items())}
    if isinstance(value, list) and key != "bytes":
        return [item for item, _ in groupby(_level(item, key) for item in value)]
    if key in VARYING and value is not None and (value != "" or key == "token"):
        return f"<{key}>"
    if key in COUNTS and value is not None:
        return "<count>"
    return value


def normalised(text: str) -> str:
    """Return one line per event; equal neighbours become one."""
    lines = []
    for event in text.strip().split("\n\n"):
        data = event.removeprefix("data: ")
        lines.append(data if data == "[DONE]" else json.dumps(_level(json.loads(data)), ensure_ascii=False))
    return "\n".join(line for line, _ in groupby(lines)) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_stream_of_the_real_model_equals_its_golden_transcript(hub: RunningHub, name: str) -> None:
    path, fields = CASES[name]
    body = {"model": hub.model, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "stream": True} | fields
    answer = httpx.post(f"{hub.url}/v1/{path}", json=body, timeout=120)
    text = f"{answer.status_code} {answer.headers['content-type']}\n{normalised(answer.text)}"
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("AIHUB_WRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
