"""Real speech from its file to a citation whose times are those of the sound."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.search.bm25 import LexicalIndexCache
from aihub.documents.search.retriever import Retriever
from aihub.documents.tables.chunks import ChunkTable
from aihub.media.decoder import SandboxedDecoder
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.installs import InstallStore
from aihub.models.store.speech_models import InstalledSpeechModels
from aihub.speech.engine import SpeechEngine, SpeechPlaces
from aihub.speech.models import SpeechModels
from aihub.speech.settings import SpeechSettings
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from pipelines.transcribing_reader import TranscribingReader
from tests.speech_data import record_utterances, silence, speech_model, utterances, wav_of
from tests.unit.documents.ingest_parts import Ingest, SteeredEmbedder, running_ingest, started_parser
from tests.unit.pipelines.rag_parts import request
from tests.unit.pipelines.test_transcribing_reader import LocalModels

NEAR_S = 0.3


@pytest.fixture(scope="module")
def parser() -> Iterator[DocumentParser]:
    with started_parser() as parser:
        yield parser


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[TranscribingReader]:
    folder = speech_model("en").parent
    models = InstalledSpeechModels(InstallStore(tmp_path / "installs"), tmp_path / "models", folder, load_catalogue())
    decoder = SandboxedDecoder()
    speech = SpeechEngine(SpeechModels(models), decoder, SpeechSettings(), SpeechPlaces(parallel_parts=2, max_streams=2))
    yield TranscribingReader(decoder=decoder, speech=speech, engines=LocalModels(), prompts=load_prompts(), caption_language="en")
    await speech.shut_down()
    await decoder.close()


@pytest.fixture
async def ingest(database: Database, tenant: str, parser: DocumentParser, reader: TranscribingReader) -> AsyncIterator[Ingest]:
    async with running_ingest(database, tenant, parser, SteeredEmbedder(), media_reader=reader) as running:
        yield running


async def citation_of(ingest: Ingest, database: Database, store_id: str, question: str, answer: str) -> list[dict[str, Any]]:
    """What is cited for an answer over the store, searched by words."""
    chunks = ChunkTable(database)
    finder = Retriever(chunks, LexicalIndexCache(chunks), ingest.embedder)
    rag = RagPipeline(finder=finder, stores=ingest.documents.stores, embedder=ingest.embedder, prompts=load_prompts())
    asked = request(question, retrieval={"vector_store_ids": [store_id], "mode": "text"})
    told = await rag.answer(Principal(ingest.documents.tenant), FakeChatEngine(answer=lambda prompt: answer), asked)
    annotations: list[dict[str, Any]] = told["choices"][0]["message"]["annotations"]
    return annotations


@pytest.mark.parametrize("language", ["en", "vi"])
async def test_what_is_said_is_cited_by_when_it_is_said(ingest: Ingest, database: Database, language: str) -> None:
    data, said = record_utterances(language)
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, data, "ghi âm.wav")
    record = await ingest.finished(store_id, file_id, timeout_s=60)
    assert (record.status, record.last_error) == ("completed", None)
    text = await ingest.documents.files.get_text(ingest.documents.tenant, file_id)
    heard = [utterance for utterance in said if utterance.text in text.split("\n\n")]
    assert len(heard) >= len(said) - 1, text
    # Of words enough that no other utterance holds as many of them.
    asked = [utterance for utterance in heard if len(set(utterance.text.split())) >= 4]
    assert len(asked) >= 3
    for utterance in asked:
        [citation] = await citation_of(ingest, database, store_id, utterance.text, utterance.text)
        assert citation["quote"] == utterance.text == text[citation["start_char"] : citation["end_char"]]
        assert citation["start_s"] == pytest.approx(utterance.start_s, abs=NEAR_S)
        assert citation["end_s"] == pytest.approx(utterance.end_s, abs=NEAR_S)


async def test_silence_fails_and_the_next_recording_is_heard(ingest: Ingest) -> None:
    store_id = await ingest.store_id()
    record = await ingest.finished(store_id, await ingest.attach(store_id, wav_of(silence(5)), "a.wav"), timeout_s=60)
    assert record.last_error is not None
    assert record.last_error["message"] == "Nothing that is said was heard in the audio file."
    file_id = await ingest.attach(store_id, wav_of(utterances("en")[0].samples), "b.wav")
    assert (await ingest.finished(store_id, file_id, timeout_s=60)).status == "completed"
