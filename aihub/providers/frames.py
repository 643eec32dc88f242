"""Server-sent events: reading a provider's, writing the hub's."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aihub.errors import HubError
from aihub.providers.failures import ProviderUnavailableError, Refusal, explain_refusal
from aihub.providers.origin import parse_object

DONE = "data: [DONE]\n\n"

_END_TIMEOUT_S = 0.25


def data_frame(value: dict[str, Any]) -> str:
    """Render one event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_frame(error: HubError) -> str:
    """Render the end of a stream that failed: the error, then `[DONE]`."""
    return data_frame(error.to_openai()) + DONE


async def read_events(provider: str, lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the JSON objects of an OpenAI stream up to `[DONE]`; closing this closes `lines`.

    Raises:
        ProviderUnavailableError: The stream ended before `[DONE]` and before a finish reason.
        HubError: The stream carries an error object, or something that is no event.
    """
    is_finished = False
    async with aclosing(lines):
        async for line in lines:
            if not line.startswith(b"data:"):
                continue  # comments, `event:` and `id:` lines
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                await _read_end(lines)
                return
            chunk = parse_object(provider, data)
            raise_told_error(provider, chunk)
            is_finished = is_finished or any(
                choice.get("finish_reason") for choice in chunk.get("choices") or () if isinstance(choice, dict)
            )
            yield chunk
    if not is_finished:
        raise broken_off(provider)


async def _read_end(lines: AsyncGenerator[bytes, None]) -> None:
    """Read past `[DONE]`: only an answer read to its end leaves its connection open for the next request."""
    with contextlib.suppress(TimeoutError, HubError):
        async with asyncio.timeout(_END_TIMEOUT_S):
            async for _ in lines:
                pass


def raise_told_error(provider: str, chunk: dict[str, Any]) -> None:
    """Raise the error a chunk of a stream tells of, if it does.

    Raises:
        HubError: As for the same error with a status.
    """
    told = chunk.get("error")
    if not told:
        return
    error = told if isinstance(told, dict) else {"message": told}
    code = error.get("code") or error.get("type")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    if code in {"rate_limit_exceeded", "insufficient_quota"}:
        status = 429
    elif code == "context_length_exceeded" or error.get("type") == "invalid_request_error":
        status = 400
    message = str(error.get("message") or "")[:500]
    raise explain_refusal(Refusal(provider, status, message, str(code) if code else None))


def broken_off(provider: str) -> ProviderUnavailableError:
    return ProviderUnavailableError(f"The provider {provider!r} broke off in the middle of its answer. Try again.")
