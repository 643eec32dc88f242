"""Everything the ingress holds: connections to other applications, stores, pipelines and the ingest worker."""

import asyncio
import time
import uuid

from aihub.api.services import Services
from aihub.documents.options import ParseLimits
from aihub.documents.parse import DocumentParser
from aihub.engines.base import ChatModelCard, PartHealth
from aihub.errors import InternalError
from aihub.profiles import Profile
from aihub.retrieval.cache import LexicalIndexCache
from aihub.settings import Settings
from aihub.storage.cache import Cache
from aihub.storage.chunks import ChunkTable
from aihub.storage.files import FileTable
from aihub.storage.postgres import Database
from aihub.storage.vector_stores import VectorStoreFileTable, VectorStoreTable
from aihub.telemetry.metrics import Metrics
from deployments.engines import ChatEngines
from deployments.handles import AppConnection, EmbedderHandle, LLMHandle
from pipelines.chat import ChatPipeline
from pipelines.documents import Files, VectorStores
from pipelines.ingest import IngestWorker
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from pipelines.retrieve import Retriever

LLM_APP = "llm-default"
EMBEDDINGS_APP = "embeddings"


class HubParts:
    """Builds the parts in dependency order and closes them in the reverse one."""

    def __init__(self, settings: Settings, profile: Profile, model_id: str, tokenizer_path: str) -> None:
        assert settings.database_url is not None  # noqa: S101  # connect_stores() has set it
        self._llm = AppConnection(LLM_APP, f"The model {model_id}")
        self._embeddings = AppConnection(EMBEDDINGS_APP, "The embeddings model")
        self._database = Database(settings.database_url.get_secret_value(), timeout_s=settings.storage_timeout_s)
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self._cache = Cache(redis_url, timeout_s=settings.cache_timeout_s)
        self._parser = DocumentParser(
            tokenizer_path, profile.hub.parser_processes, limits=ParseLimits(memory_mb=profile.hub.parser_memory_mb)
        )
        metrics = Metrics()
        embedder = EmbedderHandle(self._embeddings)
        files, stores, store_files = (
            FileTable(self._database),
            VectorStoreTable(self._database),
            VectorStoreFileTable(self._database),
        )
        chunks = ChunkTable(self._database)
        retriever = Retriever(chunks, LexicalIndexCache(chunks), embedder)
        self._worker = IngestWorker(
            files=files,
            stores=stores,
            store_files=store_files,
            parser=self._parser,
            embedder=embedder,
            metrics=metrics,
            worker_id=uuid.uuid4().hex,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.prompts = load_prompts()
        card = ChatModelCard(model_id=model_id, context_tokens=profile.llm.max_model_len, created=int(time.time()))
        self.engines = ChatEngines({model_id: LLMHandle(self._llm)}, [card])
        rag = RagPipeline(finder=retriever, stores=stores, embedder=embedder, prompts=self.prompts)
        self.services = Services(
            settings=settings,
            chat=ChatPipeline(self.engines, rag, timeout_s=settings.chat_timeout_s),
            embedder=embedder,
            files=Files(files, max_bytes=settings.max_upload_bytes),
            vector_stores=VectorStores(
                files=files,
                stores=stores,
                store_files=store_files,
                retriever=retriever,
                embedder=embedder,
                nudge=self._worker.nudge,
            ),
            health=self.health,
            metrics=metrics,
        )

    async def start(self) -> None:
        """Open what can be opened; a part that is missing now is used when it comes."""
        self._llm.start()
        self._embeddings.start()
        await self._database.open()
        await self._parser.start()
        self._tasks.append(asyncio.create_task(self._worker.run()))

    async def close(self) -> None:
        """Stop working and let go of every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._parser.close()
        await asyncio.gather(self._llm.close(), self._embeddings.close(), self._cache.close())
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
        postgres, redis = await asyncio.gather(self._database.check(), self._cache.check())
        return {"llm": self._llm.health, "embeddings": self._embeddings.health, "postgres": postgres, "redis": redis}
