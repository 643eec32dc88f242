"""Copies of conversations in Redis, so that most questions read their history without PostgreSQL.

PostgreSQL is the truth: a copy counts only for the version of the row that it was made of, which every write of any replica
changes. Without Redis, histories are read from PostgreSQL.
"""

import json
from dataclasses import asdict

from aihub.conversations.history import HistoryMessage, StoredHistory
from aihub.core.cache import Cache
from aihub.core.principal import Principal

COPY_TTL_S = 3600.0
MAX_COPY_BYTES = 256 * 2**10
"""Longer histories are not copied."""


class RecentTurns:
    """Histories by conversation and version."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def get(self, principal: Principal, conversation_id: str, version: str) -> StoredHistory | None:
        """Return the history of a version; None where Redis has none, or one of another version."""
        found = await self._cache.get(_key(principal, conversation_id))
        if found is None:
            return None
        copy = json.loads(found)
        if copy["version"] != version:
            return None
        messages = [HistoryMessage(**message) for message in copy["messages"]]
        return StoredHistory(messages, copy["summary"], copy["summary_position"])

    async def put(self, principal: Principal, conversation_id: str, version: str, history: StoredHistory) -> None:
        """Keep the history of a version."""
        copy = {
            "version": version,
            "summary": history.summary,
            "summary_position": history.summary_position,
            "messages": [asdict(message) for message in history.messages],
        }
        data = json.dumps(copy, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(data) <= MAX_COPY_BYTES:
            await self._cache.set(_key(principal, conversation_id), data, COPY_TTL_S)

    async def forget(self, principal: Principal, conversation_id: str) -> None:
        """Take the copy of a conversation out of Redis, as one that was deleted should not lie there for an hour."""
        await self._cache.delete(_key(principal, conversation_id))


def _key(principal: Principal, conversation_id: str) -> str:
    return f"{principal.redis_prefix}conversation:{conversation_id}"
