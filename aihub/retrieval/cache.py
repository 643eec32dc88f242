"""The lexical indexes in memory, kept fresh from PostgreSQL and within a budget of bytes."""

import asyncio
from collections import OrderedDict
from typing import Protocol

from aihub.errors import NotFoundError
from aihub.retrieval.bm25 import LexicalIndex
from aihub.retrieval.postings import PostingsBlock
from aihub.storage.records import LexicalChanges

DEFAULT_BUDGET_BYTES = 2**30
"""About 1.1 million chunks of 250 tokens (88 MB per 100,000)."""


class LexicalFeed(Protocol):
    """`aihub.storage.chunks.ChunkTable`."""

    async def lexical_changes(self, tenant_id: str, store_id: str, after_version: int) -> LexicalChanges: ...


class LexicalIndexCache:
    """One `LexicalIndex` per vector store, least recently searched ones dropped over the budget.

    Every search first asks for the store's version, so a document is found as soon as its file is `completed`, whichever
    replica indexed it.

    Args:
        feed: Where changes come from.
        budget_bytes: Memory of all indexes together. The one being searched stays even when it is larger.
    """

    def __init__(self, feed: LexicalFeed, *, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self._feed = feed
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[tuple[str, str], tuple[LexicalIndex, asyncio.Lock]] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory held by all indexes."""
        return sum(index.size_bytes for index, _ in self._entries.values())

    async def blocks(self, tenant_id: str, store_id: str) -> tuple[PostingsBlock, ...]:
        """Return the store's postings as of now.

        Raises:
            NotFoundError: No such store.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        key = (tenant_id, store_id)
        index, lock = self._entries.setdefault(key, (LexicalIndex(), asyncio.Lock()))
        self._entries.move_to_end(key)
        async with lock:
            try:
                changes = await self._feed.lexical_changes(tenant_id, store_id, index.version)
            except NotFoundError:
                self._entries.pop(key, None)
                raise
            if changes.version > index.version:
                await asyncio.to_thread(index.apply, changes)
                self._drop_over_budget(keep=key)
        return index.blocks

    def _drop_over_budget(self, keep: tuple[str, str]) -> None:
        total_bytes = self.size_bytes
        for key in [key for key in self._entries if key != keep]:
            if total_bytes <= self._budget_bytes:
                return
            index, _ = self._entries.pop(key)
            total_bytes -= index.size_bytes
