"""How many tokens a prompt may take, for providers that do not say before they answer."""

import json
from collections.abc import Mapping
from typing import Any

# Tokenizers of 100,000 words and more take about 4 bytes of English and 3.5 of Vietnamese per token; 3 leaves room for names,
# numbers and code. Each message costs its role and separators.
_BYTES_PER_TOKEN = 3
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_REPLY = 3


def estimate_tokens(body: Mapping[str, Any]) -> int:
    """Return an estimate of a chat body's prompt tokens that errs on the large side, so that what is fitted by it fits.

    A word counts as a token at least.
    """
    messages = body.get("messages") or ()
    total = _TOKENS_PER_REPLY + sum(_TOKENS_PER_MESSAGE + _text_tokens(_text_of(message)) for message in messages)
    if tools := body.get("tools"):
        total += _text_tokens(json.dumps(tools, ensure_ascii=False))
    return total


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    calls = message.get("tool_calls")
    return f"{text} {json.dumps(calls, ensure_ascii=False)}" if calls else text


def _text_tokens(text: str) -> int:
    by_size = -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)
    return max(by_size, len(text.split()))
