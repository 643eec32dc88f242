"""The lexical indexes in memory, kept fresh from PostgreSQL and within a budget of bytes."""

import asyncio
from collections import OrderedDict
from typing import Protocol

from aihub.retrieval.bm25 import LexicalIndex
from aihub.retrieval.postings import PostingsBlock
from aihub.storage.records import LexicalChanges

DEFAULT_BUDGET_BYTES = 2**30


class LexicalFeed(Protocol):
    """`aihub.storage.chunks.ChunkTable`."""

    async def lexical_changes(self, tenant_id: str, store_id: str, after_version: int) -> LexicalChanges: ...


class LexicalIndexCache:
    """One `LexicalIndex` per vector store, least recently searched ones dropped over the budget.

    Every search first asks for the store's version, so a document is found as soon as its file is `completed`, whichever
    replica indexed it.
    """

    def __init__(self, feed: LexicalFeed, *, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self._feed = feed
        self._budget_bytes = budget_bytes
        self._indexes: OrderedDict[tuple[str, str], LexicalIndex] = OrderedDict()
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def blocks(self, tenant_id: str, store_id: str) -> tuple[PostingsBlock, ...]:
        """Return the store's postings as of now.

        Raises:
            NotFoundError: No such store.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        key = (tenant_id, store_id)
        async with self._locks.setdefault(key, asyncio.Lock()):
            index = self._indexes.get(key) or LexicalIndex()
            changes = await self._feed.lexical_changes(tenant_id, store_id, index.version)
            if changes.version > index.version:
                await asyncio.to_thread(index.apply, changes)
            self._indexes[key] = index
            self._indexes.move_to_end(key)
        self._drop_over_budget(keep=key)
        return index.blocks

    def _drop_over_budget(self, keep: tuple[str, str]) -> None:
        total_bytes = sum(index.size_bytes for index in self._indexes.values())
        for key in list(self._indexes):
            if total_bytes <= self._budget_bytes:
                return
            if key != keep:
                total_bytes -= self._indexes.pop(key).size_bytes
                self._locks.pop(key, None)
