"""What a stream of a local model used, told to the request's record whether or not the client asked for it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from aihub.core.request_record import get_record
from aihub.core.sse import events, payload

_MARK = '"usage":{'


async def stream_with_usage(
    ask: Callable[[dict[str, Any]], AsyncGenerator[str, None]], body: dict[str, Any]
) -> AsyncGenerator[str, None]:
    """Yield the frames of an engine; the chunk with the usage is left out where the body does not ask for it.

    Args:
        ask: Opens the engine's stream of a body.
    """
    options = body.get("stream_options") or {}
    is_wanted = bool(options.get("include_usage"))
    async with aclosing(ask(body | {"stream_options": options | {"include_usage": True}})) as frames:
        async for frame in frames:
            # Text inside JSON has its quotes escaped, so no model can say the mark.
            kept = frame if _MARK not in frame else _take_usage(frame, is_wanted=is_wanted)
            if kept:
                yield kept


def _take_usage(frame: str, *, is_wanted: bool) -> str:
    kept = []
    for event in events(frame):
        chunk = payload(event) if _MARK in event else None
        usage = chunk.get("usage") if chunk is not None else None
        if isinstance(usage, dict):
            get_record().note_usage(usage)
        if is_wanted or chunk is None or chunk.get("choices"):
            kept.append(event)
    return "".join(kept)
