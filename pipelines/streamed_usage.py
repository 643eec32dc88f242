"""What a chat stream has used: as its engine tells at the end, else by what was sent."""

from aihub.core.request_record import get_record
from aihub.core.sse import events, payload

_USAGE = ('"usage":{', '"usage": {')


class StreamedUsage:
    """Reads the frames of one stream on their way to the client.

    Args:
        prompt_tokens: Of the prompt, by estimate.
        is_wanted: Whether the client has asked for the usage; if not, the event that tells it is left out.
    """

    def __init__(self, prompt_tokens: int, *, is_wanted: bool) -> None:
        self._prompt_tokens = prompt_tokens
        self._is_wanted = is_wanted
        self._events = 0
        self._told: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens used: those told, or the prompt and one for each event sent; 0 before the first."""
        if self._told is not None:
            return self._told
        return self._prompt_tokens + self._events if self._events else 0

    def pass_on(self, frame: str) -> str:
        """Return what the client gets of a frame; empty where that is nothing."""
        if not any(mark in frame for mark in _USAGE):
            self._events += frame.count('data: {"') - frame.count('data: {"error"')
            return frame
        return "".join(event for event in events(frame) if self._is_shown(event))

    def _is_shown(self, event: str) -> bool:
        chunk = payload(event)
        usage = chunk.get("usage") if chunk is not None else None
        if chunk is None or not isinstance(usage, dict):
            return True
        self._told = usage.get("total_tokens")
        if self._is_wanted or chunk.get("choices"):
            return True
        get_record().note_usage(usage)  # nobody behind this sees it
        return False
