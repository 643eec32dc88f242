import asyncio

import pytest

from aihub.core.errors import NotFoundError, StorageUnavailableError
from aihub.documents.search.analysis import QueryTerm
from aihub.documents.search.bm25 import LexicalIndexCache, match_query, rank
from aihub.documents.tables.records import LexicalChanges, LexicalSegment
from tests.unit.documents.search.lexical_parts import segment_of

WORD = QueryTerm((1,), (1.0,))


class Feed:
    """Stores as lists of what happened; item n is version n + 1."""

    def __init__(self) -> None:
        self.stores: dict[tuple[str, str], list[LexicalSegment | str]] = {}
        self.asked: list[int] = []
        self.error: Exception | None = None

    async def lexical_changes(self, tenant_id: str, store_id: str, after_version: int) -> LexicalChanges:
        await asyncio.sleep(0)
        self.asked.append(after_version)
        if self.error:
            raise self.error
        if (tenant_id, store_id) not in self.stores:
            raise NotFoundError("No such store.")
        events = self.stores[tenant_id, store_id]
        new = events[after_version:]
        added = {event.file_id: event for event in new if isinstance(event, LexicalSegment)}
        removed = [event for event in new if isinstance(event, str)]
        return LexicalChanges(len(events), [a for a in added.values() if events[-1] != a.file_id], removed)


def segment(name: str, first_id: int, terms: int = 1) -> LexicalSegment:
    return segment_of(name, [dict.fromkeys(range(1, terms + 1), 1)], first_id)


async def found(cache: LexicalIndexCache, tenant: str = "t", store: str = "s") -> list[int]:
    blocks = await cache.blocks(tenant, store)
    return [chunk_id for chunk_id, _ in rank(blocks, match_query(blocks, [WORD]), 100)]


async def test_new_and_removed_files_show_at_the_next_search() -> None:
    feed = Feed()
    feed.stores["t", "s"] = [segment("a", 1)]
    cache = LexicalIndexCache(feed)
    assert await found(cache) == [1]
    feed.stores["t", "s"].append(segment("b", 2))
    assert await found(cache) == [1, 2]
    feed.stores["t", "s"].append("a")
    assert await found(cache) == [2]
    assert feed.asked == [0, 1, 2]


async def test_same_store_name_of_another_tenant_is_another_store() -> None:
    feed = Feed()
    feed.stores["t", "s"] = [segment("a", 1)]
    cache = LexicalIndexCache(feed)
    await found(cache)
    with pytest.raises(NotFoundError):
        await found(cache, tenant="other")


async def test_searches_at_once_load_a_store_once() -> None:
    feed = Feed()
    feed.stores["t", "s"] = [segment("a", 1)]
    cache = LexicalIndexCache(feed)
    assert await asyncio.gather(*(found(cache) for _ in range(5))) == [[1]] * 5
    assert feed.asked == [0, 1, 1, 1, 1]


async def test_least_recently_searched_index_is_dropped_over_the_budget() -> None:
    feed = Feed()
    for name in "abc":
        feed.stores["t", name] = [segment("f", 1, terms=100)]
    cache = LexicalIndexCache(feed, budget_bytes=0)
    await found(cache, store="a")
    one_bytes = cache.size_bytes
    cache = LexicalIndexCache(feed, budget_bytes=2 * one_bytes)
    for name in ("a", "b", "a", "c"):
        await found(cache, store=name)
    assert cache.size_bytes == 2 * one_bytes
    feed.asked.clear()
    for name in ("a", "c", "b"):
        await found(cache, store=name)
    assert feed.asked == [1, 1, 0]


async def test_index_over_the_budget_still_answers() -> None:
    feed = Feed()
    feed.stores["t", "s"] = [segment("a", 1, terms=100)]
    cache = LexicalIndexCache(feed, budget_bytes=1)
    assert await found(cache) == [1]
    assert await found(cache) == [1]


async def test_outage_is_reported_and_over_at_the_next_search() -> None:
    feed = Feed()
    feed.stores["t", "s"] = [segment("a", 1)]
    cache = LexicalIndexCache(feed)
    await found(cache)
    feed.error = StorageUnavailableError("PostgreSQL does not answer.")
    with pytest.raises(StorageUnavailableError):
        await found(cache)
    feed.error = None
    feed.stores["t", "s"].append(segment("b", 2))
    assert await found(cache) == [1, 2]


async def test_index_of_a_deleted_store_is_let_go() -> None:
    feed = Feed()
    feed.stores["t", "s"] = [segment("a", 1)]
    cache = LexicalIndexCache(feed)
    await found(cache)
    del feed.stores["t", "s"]
    with pytest.raises(NotFoundError):
        await found(cache)
    assert cache.size_bytes == 0
