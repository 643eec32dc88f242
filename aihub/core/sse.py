"""Server-sent events of chat streams: taking frames apart, and making the few the hub adds."""

import json
from collections.abc import Iterator
from typing import Any

from aihub.core.errors import HubError

DONE = "data: [DONE]\n\n"
MAX_COMMENT_CHARS = 300
_FIELD = "data: "


def events(frame: str) -> Iterator[str]:
    """Yield the events of a frame one by one, each with its closing blank line."""
    start = 0
    while start < len(frame):
        end = frame.find("\n\n", start)
        end = len(frame) if end < 0 else end + 2
        yield frame[start:end]
        start = end


def payload(event: str) -> dict[str, Any] | None:
    """Return the JSON object of an event; None for `[DONE]` and for comments."""
    if not event.startswith(_FIELD) or event == DONE:
        return None
    value: dict[str, Any] = json.loads(event[len(_FIELD) :])
    return value


def data_event(value: dict[str, Any]) -> str:
    """Render one event."""
    return f"{_FIELD}{json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def comment(text: str) -> str:
    """Render a comment, which every client skips; control characters and line ends of `text` become spaces."""
    return f": {''.join(char if char.isprintable() else ' ' for char in text[:MAX_COMMENT_CHARS])}\n\n"


def error_frame(error: HubError) -> str:
    """Render the last frame of a stream that failed: the error, then `[DONE]`, as vLLM ends such streams."""
    return data_event(error.to_openai()) + DONE
