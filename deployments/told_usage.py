"""What a stream of a local model used, told to the request's record whether or not the client asked for it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from aihub.core.request_record import get_record
from aihub.core.sse import data_event, events, payload

_USAGE = '"usage":{'
_END = '"finish_reason":"'
# Text inside JSON has its quotes escaped, so no model can say these.


async def stream_with_usage(
    ask: Callable[[dict[str, Any]], AsyncGenerator[str, None]], body: dict[str, Any]
) -> AsyncGenerator[str, None]:
    """Yield the frames of an engine; the chunk with the usage is left out where the body does not ask for it.

    Args:
        ask: Opens the engine's stream of a body.
    """
    options = body.get("stream_options") or {}
    stream = _Stream(is_wanted=bool(options.get("include_usage")))
    async with aclosing(ask(body | {"stream_options": options | {"include_usage": True}})) as frames:
        async for frame in frames:
            if kept := stream.take(frame):
                yield kept
    if kept := stream.rest():
        yield kept


class _Stream:
    """Takes the usage out of the frames of one stream.

    An engine that tells its usage has `system_fingerprint` in that chunk, else in the one that ends the last choice, which is
    held back for it until the next event.
    """

    def __init__(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._held = ""

    def take(self, frame: str) -> str:
        if not self._held and _USAGE not in frame and (self._is_wanted or _END not in frame):
            return frame
        return "".join(self._event(event) for event in events(frame))

    def rest(self) -> str:
        """Return what is still held back."""
        held, self._held = self._held, ""
        return held

    def _event(self, event: str) -> str:
        chunk = payload(event) if _USAGE in event else None
        if chunk is not None and isinstance(chunk.get("usage"), dict):
            get_record().note_usage(chunk["usage"])
            if not self._is_wanted and not chunk.get("choices"):
                return self._with_fingerprint(chunk.get("system_fingerprint"))
        before = self.rest()
        if not self._is_wanted and _END in event:
            self._held = event
            return before
        return before + event

    def _with_fingerprint(self, fingerprint: str | None) -> str:
        held = self.rest()
        ending = payload(held) if held else None
        return held if ending is None or fingerprint is None else data_event(ending | {"system_fingerprint": fingerprint})
