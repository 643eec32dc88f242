"""Texts of recordings, videos and documents that were read before: a conversation sends its media again with each turn."""

import asyncio
import hashlib
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from aihub.speech.service import Transcript

MAX_CACHED_BYTES = 32 * 2**20
"""Of one process."""

_QUICK_BYTES = 64 * 2**10
"""Longer data is hashed in a thread."""


@dataclass(frozen=True, slots=True)
class TextKey:
    """What a text was made of.

    Attributes:
        tenant_id: Nobody learns from the time of an answer what another tenant has sent.
        digest: SHA-256 of the bytes.
        reading: All else that the text depends on, such as the kind of part and the speech models there are.
    """

    tenant_id: str
    digest: bytes
    reading: tuple[Any, ...]


class TextCache:
    """Texts and transcripts by what they were made of; those unused for longest go first. For one event loop.

    Args:
        max_bytes: Of all together; what is larger than a quarter of it is not kept.
    """

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[TextKey, tuple[str | Transcript, int]] = OrderedDict()
        self.size_bytes = 0

    async def key(self, tenant_id: str, data: bytes, *reading: Any) -> TextKey:
        """Return the key of what is read from `data`."""
        if len(data) <= _QUICK_BYTES:
            return TextKey(tenant_id, hashlib.sha256(data).digest(), reading)
        return TextKey(tenant_id, await asyncio.to_thread(_digest, data), reading)

    def get(self, key: TextKey) -> str | Transcript | None:
        """Return what was read, or None where that is not known or known no more."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: TextKey, value: str | Transcript) -> None:
        """Keep what was read."""
        size_bytes = _size_bytes(value) + sys.getsizeof(key.digest)
        if size_bytes > self._max_bytes // 4:
            return
        if key in self._entries:
            self.size_bytes -= self._entries.pop(key)[1]
        self._entries[key] = value, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self.size_bytes -= self._entries.popitem(last=False)[1][1]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


_SEGMENT_BYTES = 160
"""Of a segment without its text, and about what a key takes."""


def _size_bytes(value: str | Transcript) -> int:
    texts = [value] if isinstance(value, str) else [segment.text for segment in value.segments]
    return _SEGMENT_BYTES + sum(sys.getsizeof(text) + _SEGMENT_BYTES for text in texts)
