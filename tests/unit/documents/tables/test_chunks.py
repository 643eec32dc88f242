import asyncio

import numpy as np
import pytest

from aihub.core.errors import InvalidRequestError, NotFoundError
from aihub.core.postgres import Database
from aihub.documents.tables import chunks as chunks_module
from aihub.documents.tables.chunks import ChunkTable
from tests.storage_parts import Documents, unit_vectors


@pytest.fixture
def table(database: Database) -> ChunkTable:
    return ChunkTable(database)


async def test_search_finds_the_most_similar_chunks_first(documents: Documents, table: ChunkTable) -> None:
    vectors = unit_vectors(30)
    store = await documents.store()
    record = await documents.indexed(store.id, [f"câu {n}" for n in range(30)], vectors, {"năm": 2024})
    query = (vectors[7] + 0.2 * vectors[3]).astype(np.float32)
    query /= np.linalg.norm(query)
    hits = await table.vector_search(documents.tenant, [store.id], query, 5)
    similarities = vectors @ query
    assert [hit.ordinal for hit in hits] == list(np.argsort(-similarities)[:5])
    assert [hit.score for hit in hits] == pytest.approx(sorted(np.clip(similarities, 0, 1))[:-6:-1], abs=2e-3)
    best = hits[0]
    assert (best.text, best.file_id, best.store_id, best.filename) == ("câu 7", record.file_id, store.id, "a.txt")
    assert best.attributes == {"năm": 2024}
    assert " ".join(f"câu {n}" for n in range(30))[best.start_char : best.end_char] == "câu 7"


async def test_opposite_direction_scores_zero(documents: Documents, table: ChunkTable) -> None:
    vectors = unit_vectors(1)
    store = await documents.store()
    await documents.indexed(store.id, ["một"], vectors)
    (hit,) = await table.vector_search(documents.tenant, [store.id], -vectors[0], 5)
    assert hit.score == 0.0


async def test_search_stays_inside_stores_files_and_tenant(documents: Documents, table: ChunkTable) -> None:
    vectors = unit_vectors(3)
    asked, other = await documents.store(), await documents.store()
    first = await documents.indexed(asked.id, ["một"], vectors[:1])
    second = await documents.indexed(asked.id, ["hai"], vectors[1:2])
    await documents.indexed(other.id, ["ba"], vectors[2:])

    async def found(stores: list[str], files: set[str] | None = None, tenant: str = documents.tenant) -> set[str]:
        return {hit.text for hit in await table.vector_search(tenant, stores, vectors[2], 9, files)}

    assert await found([asked.id]) == {"một", "hai"}
    assert await found([asked.id, other.id]) == {"một", "hai", "ba"}
    assert await found([asked.id, other.id], {second.file_id}) == {"hai"}
    assert await found([other.id], {first.file_id}) == set()
    assert await found([asked.id], set()) == set()
    assert await found([asked.id], tenant=documents.tenant + "-2") == set()
    assert await found(["vs_none"]) == set()


async def test_only_completed_documents_are_found(documents: Documents, table: ChunkTable) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    assert await table.vector_search(documents.tenant, [store.id], unit_vectors(1)[0], 5) == []
    assert await documents.links.fail(await documents.claim(), "invalid_file", "hỏng")
    assert await table.vector_search(documents.tenant, [store.id], unit_vectors(1)[0], 5) == []


async def test_other_dimensions_are_never_compared(documents: Documents, table: ChunkTable) -> None:
    short = await documents.store(dimensions=48)
    await documents.indexed(short.id, ["ngắn"], unit_vectors(1, 48))
    long = await documents.store()
    await documents.indexed(long.id, ["dài"], unit_vectors(1))
    both = [short.id, long.id]
    assert [hit.text for hit in await table.vector_search(documents.tenant, both, unit_vectors(1, 48)[0], 5)] == ["ngắn"]
    assert [hit.text for hit in await table.vector_search(documents.tenant, both, unit_vectors(1)[0], 5)] == ["dài"]


async def test_longest_vectors_fit_a_row(documents: Documents, table: ChunkTable) -> None:
    store = await documents.store(dimensions=4000)
    vectors = unit_vectors(2, 4000)
    await documents.indexed(store.id, ["một", "hai"], vectors)
    hits = await table.vector_search(documents.tenant, [store.id], vectors[1], 1)
    assert [hit.text for hit in hits] == ["hai"]


async def test_index_search_agrees_with_exact_search(
    documents: Documents, table: ChunkTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    centres = unit_vectors(20, seed=1)
    picks = np.random.default_rng(2).integers(0, 20, 1500)
    vectors = centres[picks] + 0.7 * unit_vectors(1500, seed=3)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    store = await documents.store()
    await documents.indexed(store.id, [f"câu {n}" for n in range(1500)], vectors)
    noise = await documents.store()
    await documents.indexed(noise.id, [f"nhiễu {n}" for n in range(1500)], vectors)
    recalls = []
    for query in centres:
        monkeypatch.setattr(chunks_module, "EXACT_CHUNKS", 10**9)
        exact = await table.vector_search(documents.tenant, [store.id], query, 10)
        monkeypatch.setattr(chunks_module, "EXACT_CHUNKS", 0)
        indexed = await table.vector_search(documents.tenant, [store.id], query, 10)
        assert [hit.score for hit in indexed] == sorted((hit.score for hit in indexed), reverse=True)
        assert {hit.store_id for hit in indexed} == {store.id}
        recalls.append(len({h.chunk_id for h in exact} & {h.chunk_id for h in indexed}) / 10)
    assert np.mean(recalls) >= 0.95


async def test_fetch_keeps_the_order_and_skips_what_is_gone(documents: Documents, table: ChunkTable) -> None:
    store = await documents.store()
    await documents.indexed(store.id, ["một", "hai", "ba"])
    changes = await table.lexical_changes(documents.tenant, store.id, 0)
    one, two, three = changes.added[0].chunk_ids
    hits = await table.fetch(documents.tenant, [three, 2**62, one])
    assert [(hit.chunk_id, hit.text, hit.score) for hit in hits] == [(three, "ba", 0.0), (one, "một", 0.0)]
    assert await table.fetch(documents.tenant, []) == []
    assert await table.fetch(documents.tenant + "-2", [one, two]) == []


async def test_lexical_changes_tell_what_came_and_went(documents: Documents, table: ChunkTable) -> None:
    store = await documents.store()
    empty = await table.lexical_changes(documents.tenant, store.id, 0)
    assert (empty.version, empty.added, empty.removed_file_ids) == (0, [], [])
    first = await documents.indexed(store.id, ["một", "hai"])
    second = await documents.indexed(store.id, ["ba"])
    changes = await table.lexical_changes(documents.tenant, store.id, 0)
    assert changes.version == 2
    assert [segment.file_id for segment in changes.added] == [first.file_id, second.file_id]
    segment = changes.added[0]
    assert segment.languages == ["vi", "vi"]
    assert [np.frombuffer(ids, "<i4").tolist() for ids in segment.term_ids] == [[1, 1000], [2, 1000]]
    assert [np.frombuffer(counts, "<u2").tolist() for counts in segment.term_freqs] == [[1, 2], [1, 2]]
    assert segment.term_totals == [3, 3]
    await documents.links.detach(documents.tenant, store.id, first.file_id)
    later = await table.lexical_changes(documents.tenant, store.id, 2)
    assert (later.version, later.added, later.removed_file_ids) == (3, [], [first.file_id])
    await documents.attach(store.id, first.file_id)
    assert await documents.links.complete_from_duplicate(await documents.claim()) is False
    again = await table.lexical_changes(documents.tenant, store.id, 3)
    assert (again.version, again.added, again.removed_file_ids) == (3, [], [])
    fresh = await table.lexical_changes(documents.tenant, store.id, 0)
    assert ([segment.file_id for segment in fresh.added], fresh.removed_file_ids) == ([second.file_id], [])


async def test_lexical_changes_of_an_unknown_store_are_not_found(documents: Documents, table: ChunkTable) -> None:
    store = await documents.store()
    with pytest.raises(NotFoundError):
        await table.lexical_changes(documents.tenant + "-2", store.id, 0)


async def test_reader_that_follows_the_versions_misses_nothing(documents: Documents, table: ChunkTable) -> None:
    store = await documents.store()
    present: set[str] = set()
    stop = asyncio.Event()

    async def follow() -> None:
        version = 0
        while True:
            last_round = stop.is_set()
            changes = await table.lexical_changes(documents.tenant, store.id, version)
            present.difference_update(changes.removed_file_ids)
            present.update(segment.file_id for segment in changes.added)
            version = changes.version
            if last_round:
                return

    async def write() -> None:
        done: list[str] = []
        for number in range(12):
            done.append((await documents.indexed(store.id, [f"câu {number}"])).file_id)
            if number % 3 == 2:
                await documents.links.detach(documents.tenant, store.id, done.pop(0))
        stop.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        group.create_task(write())
    rows, _ = await documents.links.list(documents.tenant, store.id, limit=100, status="completed")
    assert present == {row.file_id for row in rows}
    assert len(present) == 8


async def test_matching_files_are_completed_ones_with_the_attributes(documents: Documents, table: ChunkTable) -> None:
    store = await documents.store()
    law = await documents.indexed(store.id, ["một"], attributes={"loại": "luật"})
    await documents.indexed(store.id, ["hai"], attributes={"loại": "tin"})
    await documents.attach(store.id, (await documents.file(b"ba")).id, {"loại": "luật"})
    wanted = {"type": "eq", "key": "loại", "value": "luật"}
    assert await table.matching_files(documents.tenant, [store.id], wanted) == {law.file_id}
    assert await table.matching_files(documents.tenant, [store.id], None) is None
    assert await table.matching_files(documents.tenant + "-2", [store.id], wanted) == set()


async def test_query_that_is_no_number_is_a_bad_request(documents: Documents, table: ChunkTable) -> None:
    store = await documents.store()
    await documents.indexed(store.id, ["một"])
    with pytest.raises(InvalidRequestError):
        await table.vector_search(documents.tenant, [store.id], np.full(384, np.nan, np.float32), 5)
