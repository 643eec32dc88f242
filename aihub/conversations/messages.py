"""Stored messages: their text, their size, and what PostgreSQL's JSON can hold of them."""

import json
from typing import Any

MAX_MESSAGE_BYTES = 4 * 2**20
"""Of one message as JSON."""

MAX_MESSAGES = 100_000
"""Of one conversation."""

MAX_TITLE_CHARACTERS = 200

_DERIVED_TITLE_CHARACTERS = 80
_VISIBLE_ROLES = frozenset({"user", "assistant"})


def message_text(message: dict[str, Any]) -> str:
    """Return what a chat message says: its content, or the texts of its parts on lines of their own."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text", part.get("refusal")) for part in content if isinstance(part, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def searchable_text(message: dict[str, Any]) -> str:
    """Return the text that search looks at: that of questions and answers; instructions and tool results have none."""
    return message_text(message) if message.get("role") in _VISIBLE_ROLES else ""


def message_json(message: dict[str, Any]) -> str:
    """Return a message as JSON that PostgreSQL can hold: NUL and lone surrogates become U+FFFD."""
    return json.dumps(_storable(message), ensure_ascii=False, separators=(",", ":"))


def derive_title(message: dict[str, Any]) -> str | None:
    """Return the beginning of a question on one line; None where it holds no text or is none."""
    if message.get("role") != "user":
        return None
    words = " ".join(storable_text(message_text(message)[: 10 * _DERIVED_TITLE_CHARACTERS]).split())
    if len(words) <= _DERIVED_TITLE_CHARACTERS:
        return words or None
    head = words[: _DERIVED_TITLE_CHARACTERS - 1]
    return (head[: head.rfind(" ")] if " " in head[20:] else head) + "…"


def storable_text(text: str) -> str:
    """Return a text that PostgreSQL can hold: NUL and lone surrogates, which a model may have sent, become U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value
