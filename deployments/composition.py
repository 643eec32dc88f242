"""Everything the ingress holds: connections to other applications, tables, providers, pipelines and the ingest worker."""

import asyncio
import uuid
from dataclasses import dataclass
from functools import partial

from aihub.chat.history import EngineHistory
from aihub.chat.providers.connection import ProviderMetrics
from aihub.chat.providers.pool import ProviderPool
from aihub.chat.providers.settings import load_known_providers
from aihub.chat.routing import Router
from aihub.chat.routing_rules import load_routing_rules
from aihub.core.cache import Cache
from aihub.core.errors import InternalError
from aihub.core.health import PartHealth
from aihub.core.metrics import Metrics
from aihub.core.postgres import Database
from aihub.core.profiles import Profile
from aihub.core.settings import Settings
from aihub.documents.files import FileBatches, Files
from aihub.documents.ingest import IngestWorker
from aihub.documents.parsing.options import ParseLimits
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.search.bm25 import LexicalIndexCache
from aihub.documents.search.retriever import Retriever
from aihub.documents.service import MediaReader
from aihub.documents.tables.chunks import ChunkTable
from aihub.documents.tables.file_batches import FileBatchTable
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.vector_store_files import VectorStoreFileTable
from aihub.documents.tables.vector_stores import VectorStoreTable
from aihub.documents.vector_stores import VectorStores
from aihub.embeddings.service import Embedder
from aihub.finetuning.service import FineTuningService
from aihub.http.services import Services
from aihub.media.decoder import SandboxedDecoder
from aihub.media.fetch import RemoteMediaFetcher
from aihub.models.configuration import HubConfiguration
from aihub.models.service import ModelManager
from aihub.speech.service import SpeechService
from deployments.handles import AppConnection
from deployments.model_directory import ModelDirectory
from deployments.models import ADAPTERS, FINETUNING, REGISTRY
from deployments.part_metrics import PartMetrics
from deployments.people import People
from deployments.provider_settings import provider_settings
from deployments.replica_metrics import ReplicaMetrics
from deployments.service_client import (
    adapters_client,
    embedder_client,
    lifecycle_client,
    recsys_client,
    registry_client,
    service_client,
)
from pipelines.chat import ChatPipeline
from pipelines.directory import ProviderDirectory
from pipelines.hub_tools import HubTools
from pipelines.limited_speech import LimitedSpeech
from pipelines.media_parts import MediaParts
from pipelines.media_readers import MediaReaders
from pipelines.media_sources import SourceReader
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from pipelines.transcribing_reader import TranscribingReader
from pipelines.voice import VoicePipeline


@dataclass(frozen=True, slots=True)
class Documents:
    """Files and vector stores: the services behind their routes, and what keeps them."""

    files: Files
    vector_stores: VectorStores
    file_batches: FileBatches
    stores: VectorStoreTable
    retriever: Retriever
    parser: DocumentParser
    worker: IngestWorker


def _build_documents(
    database: Database,
    embedder: Embedder,
    metrics: Metrics,
    settings: Settings,
    profile: Profile,
    tokenizer_path: str,
    media_reader: MediaReader,
) -> Documents:
    files, stores, store_files = FileTable(database), VectorStoreTable(database), VectorStoreFileTable(database)
    chunks = ChunkTable(database)
    retriever = Retriever(chunks, LexicalIndexCache(chunks), embedder)
    limits = ParseLimits(memory_mb=profile.hub.parser_memory_mb)
    parser = DocumentParser(tokenizer_path, profile.hub.parser_processes, limits=limits)
    worker = IngestWorker(
        files=files,
        stores=stores,
        store_files=store_files,
        parser=parser,
        media_reader=media_reader,
        embedder=embedder,
        metrics=metrics,
        worker_id=uuid.uuid4().hex,
    )
    vector_stores = VectorStores(
        files=files, stores=stores, store_files=store_files, retriever=retriever, embedder=embedder, nudge=worker.nudge
    )
    file_batches = FileBatches(batches=FileBatchTable(database), stores=stores, embedder=embedder, nudge=worker.nudge)
    return Documents(
        Files(files, max_bytes=settings.max_upload_bytes), vector_stores, file_batches, stores, retriever, parser, worker
    )


EMBEDDINGS_APP = "embeddings"
MODELS_APP = "models"
RECSYS_APP = "recsys"
SPEECH_APP = "speech"


class Composition:
    """Builds the parts in dependency order and closes them in the reverse one."""

    def __init__(self, settings: Settings, profile: Profile, model_id: str, tokenizer_path: str, *, is_local: bool) -> None:
        assert settings.database_url is not None  # noqa: S101  # connect_stores() has set it
        self._models = AppConnection(MODELS_APP, "The model manager")
        self._embeddings = AppConnection(EMBEDDINGS_APP, "The embeddings model", is_metered=True)
        self._recsys = AppConnection(RECSYS_APP, "The recommender", is_metered=True)
        self._speech = AppConnection(SPEECH_APP, "The speech service", is_metered=True)
        self._database = Database(settings.database_url.get_secret_value(), timeout_s=settings.storage_timeout_s)
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self._cache = Cache(redis_url, timeout_s=settings.cache_timeout_s)
        self._settings = settings
        self._decoder = SandboxedDecoder(settings.media_processes)
        metrics = Metrics()
        self.people = People(settings, self._database, self._cache, metrics, is_local=is_local)
        embedder = self.people.fair_embedder(embedder_client(self._embeddings), profile.embeddings)
        speech = service_client(SpeechService, self._speech)
        is_alone = profile.hub.autoscaling.max_replicas == 1
        manager = service_client(ModelManager, self._models)
        self._replicas = None if is_alone else ReplicaMetrics(manager, metrics.registry)
        self._tasks: list[asyncio.Task[None]] = []
        self.prompts = load_prompts()
        self._build_engines(profile, model_id, metrics)
        reader = TranscribingReader(
            decoder=self._decoder,
            speech=speech,
            engines=self._directory,
            prompts=self.prompts,
            caption_language=settings.caption_language,
        )
        self._documents = _build_documents(self._database, embedder, metrics, settings, profile, tokenizer_path, reader)
        self._documents.worker.usage = self.people.usage
        self.lifecycle = lifecycle_client(self._models, self._directory.refresh)
        self._waits, self.recsys = recsys_client(self._recsys)
        rag = RagPipeline(
            finder=self._documents.retriever, stores=self._documents.stores, embedder=embedder, prompts=self.prompts
        )
        media = self._build_media(speech)
        tools = HubTools(self.recsys, self._documents.vector_stores)
        # Between a caller by handle and the hub no proxy cuts silence.
        waiting_chat = ChatPipeline(self.engines, rag, timeout_s=settings.chat_timeout_s, media=media)
        self.handle_chat = self.people.build_chat(waiting_chat, tools)
        chat = ChatPipeline(self.engines, rag, timeout_s=settings.chat_timeout_s, load_wait_s=settings.load_wait_s, media=media)
        connections = {MODELS_APP: self._models, RECSYS_APP: self._recsys, SPEECH_APP: self._speech}
        others = {name: partial(connection.call, "metrics") for name, connection in connections.items()}
        self.services = Services(
            settings=settings,
            authenticator=self.people.authenticator,
            limiter=self.people.limiter,
            usage=self.people.usage,
            chat=self.people.build_chat(chat, tools),
            embedder=embedder,
            files=self._documents.files,
            vector_stores=self._documents.vector_stores,
            file_batches=self._documents.file_batches,
            registry=registry_client(self._models, REGISTRY, self._directory.refresh),
            lifecycle=self.lifecycle,
            recsys=self.recsys,
            adapters=adapters_client(self._models, ADAPTERS, self._directory.refresh),
            finetuning=service_client(FineTuningService, self._models, prefix=FINETUNING),
            speech=LimitedSpeech(speech, self.people.limiter),
            accounts=self.people.accounts,
            conversations=self.people.conversations,
            voice=VoicePipeline(speech, self.people.limit(chat), rag),
            analytics=self.people.analytics,
            system=self.people.build_system_metrics(self.lifecycle),
            health=self.health,
            metrics=metrics,
            more_metrics=PartMetrics(others, metrics.registry).render,
            replica_metrics=None if self._replicas is None else self._replicas.render,
        )

    def _build_engines(self, profile: Profile, model_id: str, metrics: Metrics) -> None:
        known, self._history = load_known_providers(), EngineHistory()
        providers = provider_settings(self._settings, HubConfiguration())
        self._pool = ProviderPool(providers, known, ProviderMetrics(metrics.registry))
        llm = profile.llm
        self._directory = ModelDirectory(
            self._models,
            default_model=model_id,
            history=self._history,
            configured=self._configure_providers,
            max_in_flight=(llm.max_ongoing_requests + llm.max_queued_requests) * llm.autoscaling.max_replicas,
            turns=self.people.model_turns(llm),
        )
        self.engines = ProviderDirectory(
            local=self._directory,
            local_candidates=self._directory.candidates,
            pool=self._pool,
            known=known,
            router=Router(load_routing_rules(), self._history),
            history=self._history,
            favourite=self.people.preferences.favourite_model,
        )
        self.people.find_windows(self.engines, self._directory.candidates)

    def _build_media(self, speech: SpeechService) -> MediaParts:
        hosts = self._settings.remote_media_hosts
        sources = SourceReader(self._documents.files, RemoteMediaFetcher(hosts) if hosts else None)
        readers = MediaReaders(sources=sources, decoder=self._decoder, speech=speech, parser=self._documents.parser)
        return MediaParts(readers, self.engines.list)

    async def start(self) -> None:
        """Open what can be opened; a part that is missing now is used when it comes."""
        self._models.start()
        self._embeddings.start()
        self._recsys.start()
        self._speech.start()
        self._tasks.append(asyncio.create_task(self._directory.run()))
        if self._replicas is not None:
            self._tasks.append(asyncio.create_task(self._replicas.run()))
        await self._database.open()
        await self.people.restore(self._history)
        await self._documents.parser.start()
        self._tasks.append(asyncio.create_task(self._documents.worker.run()))

    async def close(self) -> None:
        """Stop working and let go of every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._documents.parser.close(), self._decoder.close(), self._waits.close(), self.people.close())
        connections = (self._models, self._embeddings, self._recsys, self._speech)
        await asyncio.gather(*(connection.close() for connection in connections), self._cache.close())
        await asyncio.gather(self._directory.close(), self._pool.close())
        await self._database.close()

    def check(self) -> None:
        """Raise when a background task has ended.

        Raises:
            InternalError: It ended; the message says with which error.
        """
        for task in self._tasks:
            if task.done():
                raise InternalError(
                    f"A background task of the hub ended: {task.exception() if not task.cancelled() else 'cancelled'}"
                )

    async def health(self) -> dict[str, PartHealth]:
        """State of every part."""
        postgres, redis, models, embeddings, recsys, speech, llm = await asyncio.gather(
            self._database.check(),
            self._cache.check(),
            self._models.look(),
            self._embeddings.look(),
            self._recsys.look(),
            self._speech.look(),
            self._directory.look(),
        )
        return {
            "llm": llm,
            "models": models,
            "embeddings": embeddings,
            "recsys": recsys,
            "speech": speech,
            "postgres": postgres,
            "redis": redis,
        }

    def _configure_providers(self, configuration: HubConfiguration) -> None:
        self._pool.configure(provider_settings(self._settings, configuration))
