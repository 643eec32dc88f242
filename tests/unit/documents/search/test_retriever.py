"""The retriever over real tables, with texts analysed as ingest does and an embedder made of hashed words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from aihub.core.errors import InvalidRequestError, ModelUnavailableError, NotFoundError
from aihub.core.postgres import Database
from aihub.documents.search.analysis import analyse
from aihub.documents.search.bm25 import LexicalIndexCache
from aihub.documents.search.retriever import Retriever, ScoredChunk
from aihub.documents.tables.chunks import ChunkTable
from aihub.documents.tables.records import Attributes, ChunkRow, VectorStoreRecord
from aihub.embeddings.fake import FakeEmbedder
from aihub.embeddings.service import Embeddings
from tests.storage_parts import Documents, chunk_rows

RETURNS = "Khách hàng được đổi trả sản phẩm trong vòng ba mươi ngày kể từ ngày mua hàng."
DELIVERY = "Phí giao hàng là ba mươi nghìn đồng cho các đơn hàng ở nội thành Hà Nội."
HOURS = "The shop is open from eight in the morning to nine in the evening on all days of the week."


@dataclass
class FailingEmbedder(FakeEmbedder):
    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        raise ModelUnavailableError("The embeddings model is loading.")


class Shelf:
    """Documents of one tenant, and a retriever over them."""

    def __init__(self, database: Database, tenant: str, embedder: FakeEmbedder | None = None) -> None:
        self.documents = Documents(database, tenant)
        self.embedder = embedder or FakeEmbedder()
        chunks = ChunkTable(database)
        self.retriever = Retriever(chunks, LexicalIndexCache(chunks), self.embedder)

    async def store(self) -> VectorStoreRecord:
        return await self.documents.store()

    async def add(self, store: VectorStoreRecord, *texts: str, attributes: Attributes | None = None, file_id: str = "") -> str:
        """Index a document of one chunk per text; a `file_id` is attached once more instead of uploaded."""
        documents = self.documents
        file_id = file_id or (await documents.file(" ".join(texts).encode())).id
        await documents.attach(store.id, file_id, attributes)
        embeddings = (await FakeEmbedder().embed(list(texts))).vectors
        rows = [_analysed(row) for row in chunk_rows(texts, embeddings)]
        assert await documents.links.complete(await documents.claim(), " ".join(texts), "txt", rows)
        return file_id

    async def search(
        self, query: str, *stores: VectorStoreRecord, mode: str = "hybrid", top_k: int = 5, **options: object
    ) -> list[ScoredChunk]:
        found = await self.retriever.retrieve(self.documents.tenant, list(stores), query, top_k=top_k, mode=mode, **options)
        return found.hits


def _analysed(row: ChunkRow) -> ChunkRow:
    terms = analyse(row.text)
    return replace(
        row,
        language=terms.language,
        term_ids=terms.term_ids.astype("<i4").tobytes(),
        term_freqs=terms.term_freqs.astype("<u2").tobytes(),
        term_total=terms.total,
    )


def texts(hits: list[ScoredChunk]) -> list[str]:
    return [found.hit.text for found in hits]


@pytest.fixture
def shelf(database: Database, tenant: str) -> Shelf:
    return Shelf(database, tenant)


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_each_mode_finds_the_document_that_answers(shelf: Shelf, mode: str) -> None:
    store = await shelf.store()
    for text in (RETURNS, DELIVERY, HOURS):
        await shelf.add(store, text)
    hits = await shelf.search("Phí giao hàng nội thành là bao nhiêu?", store, mode=mode)
    assert texts(hits)[0] == DELIVERY
    assert all(0 < found.score <= 1 for found in hits[:1])
    assert [found.score for found in hits] == sorted((found.score for found in hits), reverse=True)


@pytest.mark.parametrize("query", ["doi tra san pham", "ĐỔI TRẢ SẢN PHẨM", "đổi trả"])
async def test_vietnamese_is_found_with_and_without_marks(shelf: Shelf, query: str) -> None:
    store = await shelf.store()
    await shelf.add(store, RETURNS, DELIVERY, HOURS)
    for mode in ("text", "hybrid"):
        assert texts(await shelf.search(query, store, mode=mode))[0] == RETURNS


async def test_scores_say_which_ranker_found_a_chunk(shelf: Shelf) -> None:
    store = await shelf.store()
    await shelf.add(store, RETURNS, HOURS)
    first, second = await shelf.search("đổi trả sản phẩm", store)
    assert first.text_score is not None
    assert first.vector_score is not None
    assert second.text_score is None
    assert (await shelf.search("đổi trả", store, mode="vector"))[0].text_score is None
    assert (await shelf.search("đổi trả", store, mode="text"))[0].vector_score is None


async def test_document_is_found_right_after_completion_and_never_after_removal(shelf: Shelf) -> None:
    store = await shelf.store()
    await shelf.add(store, HOURS)
    assert texts(await shelf.search("đổi trả", store, mode="text")) == []
    file_id = await shelf.add(store, RETURNS)
    assert texts(await shelf.search("đổi trả", store, mode="text")) == [RETURNS]
    await shelf.documents.links.detach(shelf.documents.tenant, store.id, file_id)
    for mode in ("text", "vector", "hybrid"):
        assert RETURNS not in texts(await shelf.search("đổi trả", store, mode=mode))


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_filter_leaves_only_matching_files(shelf: Shelf, mode: str) -> None:
    store = await shelf.store()
    await shelf.add(store, RETURNS, attributes={"phòng": "bán hàng"})
    await shelf.add(store, RETURNS + " Áp dụng toàn quốc.", attributes={"phòng": "kho"})
    chosen = {"type": "eq", "key": "phòng", "value": "kho"}
    assert [t[-8:] for t in texts(await shelf.search("đổi trả", store, mode=mode, filters=chosen))] == ["àn quốc."]
    nothing = {"type": "eq", "key": "phòng", "value": "không có"}
    assert await shelf.search("đổi trả", store, mode=mode, filters=nothing) == []


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_file_in_two_stores_is_found_once(shelf: Shelf, mode: str) -> None:
    first, second = await shelf.store(), await shelf.store()
    file_id = await shelf.add(first, RETURNS, DELIVERY)
    await shelf.add(second, RETURNS, DELIVERY, file_id=file_id)
    hits = await shelf.search("đổi trả hàng giao hàng", first, second, mode=mode, top_k=2)
    assert sorted(texts(hits)) == sorted([RETURNS, DELIVERY])


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_top_k_bounds_the_answer(shelf: Shelf, mode: str) -> None:
    store = await shelf.store()
    await shelf.add(store, *(f"Đổi trả hàng lần thứ {n} trong năm." for n in range(12)))
    assert len(await shelf.search("đổi trả hàng", store, mode=mode, top_k=7)) == 7


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_empty_store_finds_nothing(shelf: Shelf, mode: str) -> None:
    assert await shelf.search("đổi trả", await shelf.store(), mode=mode) == []


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_stores_of_other_tenants_are_never_searched(database: Database, shelf: Shelf, mode: str) -> None:
    store = await shelf.store()
    await shelf.add(store, RETURNS)
    stranger = Shelf(database, "tenant-stranger")
    if mode == "vector":
        assert await stranger.search("đổi trả", store, mode=mode) == []
    else:
        with pytest.raises(NotFoundError):
            await stranger.search("đổi trả", store, mode=mode)


async def test_foreign_language_ranks_by_words_though_vectors_disagree(database: Database, tenant: str) -> None:
    shelf = Shelf(database, tenant, FakeEmbedder(languages=("en",)))
    store = await shelf.store()
    await shelf.add(store, RETURNS, DELIVERY)
    # As many words as vectors like, and none that says what is asked.
    await shelf.add(store, "Trong vòng là của các hàng là trong các của hàng là hàng là hàng.")
    assert texts(await shelf.search("hàng là đổi trả", store))[0] == RETURNS


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
async def test_missing_embedder_is_reported_as_itself(database: Database, tenant: str, mode: str) -> None:
    shelf = Shelf(database, tenant, FailingEmbedder())
    store = await shelf.store()
    await shelf.add(store, RETURNS)
    with pytest.raises(ModelUnavailableError):
        await shelf.search("đổi trả", store, mode=mode)
    assert texts(await shelf.search("đổi trả", store, mode="text")) == [RETURNS]


async def test_unknown_mode_is_refused(shelf: Shelf) -> None:
    with pytest.raises(InvalidRequestError):
        await shelf.search("đổi trả", await shelf.store(), mode="magic")


async def test_deleted_store_is_reported_in_text_mode(shelf: Shelf) -> None:
    store = await shelf.store()
    await shelf.add(store, RETURNS)
    await shelf.documents.stores.delete(shelf.documents.tenant, store.id)
    with pytest.raises(NotFoundError):
        await shelf.search("đổi trả", store, mode="text")


async def test_stages_are_timed(shelf: Shelf) -> None:
    store = await shelf.store()
    await shelf.add(store, RETURNS)
    found = await shelf.retriever.retrieve(shelf.documents.tenant, [store], "đổi trả", top_k=3, mode="hybrid")
    assert {"embed", "vector", "text", "search"} <= found.timings_ms.keys()
    assert all(duration >= 0 for duration in found.timings_ms.values())
