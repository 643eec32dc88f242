"""The RAG pipeline over real documents: parsed, stored in PostgreSQL, found by the real retriever."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import NotFoundError, StorageUnavailableError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.search.bm25 import LexicalIndexCache
from aihub.documents.search.retriever import Retriever
from aihub.documents.tables.chunks import ChunkTable
from aihub.documents.tables.vector_stores import VectorStoreTable
from pipelines.chat import ChatPipeline
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from tests.unit.documents.ingest_parts import CuttableLine, Ingest, SteeredEmbedder, running_ingest, started_parser
from tests.unit.pipelines.rag_parts import OneModel, request

MENU = (
    "# Thực đơn 🍜\n\n" + "Quán nhận đặt bàn qua điện thoại. " * 40 + "Một tô phở bò giá 65 nghìn đồng. " + "Quán nghỉ lễ. " * 40
)
LAW = "Điều 1. Hợp đồng lao động phải được giao kết bằng văn bản. Điều 2. Người lao động được nghỉ phép năm."


@pytest.fixture(scope="module")
def parser() -> Iterator[DocumentParser]:
    with started_parser() as parser:
        yield parser


def chat_over(database: Database, embedder: SteeredEmbedder, answer: str) -> ChatPipeline:
    chunks = ChunkTable(database)
    rag = RagPipeline(
        finder=Retriever(chunks, LexicalIndexCache(chunks), embedder),
        stores=VectorStoreTable(database),
        embedder=embedder,
        prompts=load_prompts(),
    )
    return ChatPipeline(OneModel(FakeChatEngine(answer=lambda prompt: answer)), rag, timeout_s=30.0)


async def filled_store(ingest: Ingest) -> tuple[str, str]:
    """Return the ids of a store with two documents, and of the menu in it."""
    store_id = await ingest.store_id()
    menu = await ingest.attach(store_id, MENU.encode(), "thực đơn.md")
    law = await ingest.attach(store_id, LAW.encode(), "luật.txt")
    for file_id in (menu, law):
        assert (await ingest.finished(store_id, file_id)).status == "completed"
    return store_id, menu


def asking(question: str, store_id: str, **retrieval: Any) -> Any:
    return request(question, retrieval={"vector_store_ids": [store_id], **retrieval})


async def test_quote_is_the_stored_documents_text_at_its_offsets(database: Database, tenant: str, parser: DocumentParser) -> None:
    embedder = SteeredEmbedder()
    async with running_ingest(database, tenant, parser, embedder) as ingest:
        store_id, menu = await filled_store(ingest)
        chat = chat_over(database, embedder, "Phở bò giá 65 nghìn đồng.")
        answer = await chat.chat(Principal(tenant), asking("Phở bò giá bao nhiêu?", store_id))
        [citation] = answer["choices"][0]["message"]["annotations"]
        stored = await ingest.documents.files.get_text(tenant, menu)
        assert citation["quote"] == stored[citation["start_char"] : citation["end_char"]] == "Một tô phở bò giá 65 nghìn đồng."
        assert (citation["file_id"], citation["filename"]) == (menu, "thực đơn.md")
        for chunk in answer["retrieval"]["chunks"]:
            text = await ingest.documents.files.get_text(tenant, chunk["file_id"])
            assert chunk["text"] == text[chunk["start_char"] : chunk["end_char"]]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_question_longer_than_the_embedder_reads_is_answered(
    database: Database, tenant: str, parser: DocumentParser, mode: str
) -> None:
    embedder = SteeredEmbedder()
    async with running_ingest(database, tenant, parser, embedder) as ingest:
        store_id, menu = await filled_store(ingest)
        question = "Hôm qua tôi đi chơi với gia đình và trời mưa rất to. " * 60 + "Phở bò giá bao nhiêu?"
        chat = chat_over(database, embedder, "Phở bò giá 65 nghìn đồng.")
        answer = await chat.chat(Principal(tenant), asking(question, store_id, mode=mode))
        assert answer["retrieval"]["search_query_shortened"] is (mode != "text")
        assert "Phở bò giá bao nhiêu?" in answer["retrieval"]["search_query"]
        if mode != "vector":
            assert menu in [chunk["file_id"] for chunk in answer["retrieval"]["chunks"]]


async def test_empty_store_is_answered_without_sources(database: Database, tenant: str, parser: DocumentParser) -> None:
    embedder = SteeredEmbedder()
    async with running_ingest(database, tenant, parser, embedder) as ingest:
        chat = chat_over(database, embedder, "Tài liệu không có câu trả lời.")
        answer = await chat.chat(Principal(tenant), asking("Phở bò giá bao nhiêu?", await ingest.store_id()))
        assert answer["choices"][0]["message"]["annotations"] == []
        assert answer["retrieval"]["chunks"] == []


async def test_store_of_another_tenant_is_not_found(database: Database, tenant: str, parser: DocumentParser) -> None:
    embedder = SteeredEmbedder()
    async with running_ingest(database, tenant, parser, embedder) as ingest:
        store_id = await ingest.store_id()
        with pytest.raises(NotFoundError, match=store_id):
            await chat_over(database, embedder, "x").chat(Principal("someone-else"), asking("Giá?", store_id))


async def ask_until_up(chat: ChatPipeline, principal: Principal, question: Any) -> dict[str, Any]:
    """The pool tries to connect again at growing intervals; clients are told to try again in a few seconds."""
    while True:
        try:
            return await chat.chat(principal, question)
        except StorageUnavailableError:
            await asyncio.sleep(0.25)


async def test_postgres_down_is_an_error_and_up_again_an_answer(
    embedded_stores: StoreUrls, database: Database, tenant: str, parser: DocumentParser
) -> None:
    embedder, line = SteeredEmbedder(), CuttableLine(embedded_stores.database_url)
    async with running_ingest(database, tenant, parser, embedder) as ingest:
        store_id, _ = await filled_store(ingest)
    cuttable = Database(await line.open(), pool_size=2, timeout_s=1.0)
    await cuttable.open()
    chat = chat_over(cuttable, embedder, "Phở bò giá 65 nghìn đồng.")
    try:
        await line.cut()
        with pytest.raises(StorageUnavailableError):
            await chat.chat(Principal(tenant), asking("Phở bò giá bao nhiêu?", store_id))
        await line.mend()
        async with asyncio.timeout(20):
            answer = await ask_until_up(chat, Principal(tenant), asking("Phở bò giá bao nhiêu?", store_id))
        assert answer["choices"][0]["message"]["annotations"]
    finally:
        await cuttable.close()
        await line.cut()
