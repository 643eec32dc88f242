"""What a chat stream has said, followed frame by frame."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aihub.core.sse import DONE


@dataclass(slots=True)
class StreamedAnswer:
    """What a stream has said so far."""

    texts: dict[int, list[str]] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    started_s: float = field(default_factory=time.perf_counter)
    first_token_s: float | None = None
    failed: bool = False

    def listen(self, chunk: Mapping[str, Any] | None) -> None:
        if chunk is None:
            return
        self.failed = self.failed or "error" in chunk
        if not self.head:
            self.head = {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
        for choice in chunk.get("choices", ()):
            said = self.texts.setdefault(choice["index"], [])
            delta = choice.get("delta") or {}
            if delta.get("content") or delta.get("tool_calls"):
                self.first_token_s = self.first_token_s or time.perf_counter()
                said.append(delta.get("content") or "")

    def is_complete(self, event: str, chunk: Mapping[str, Any] | None) -> bool:
        """Whether `event` is the first after the last choice: the usage chunk or `[DONE]`."""
        return not self.failed and (event == DONE or (chunk is not None and chunk.get("choices") == []))
