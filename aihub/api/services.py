"""What the HTTP edge needs from the rest of the hub, as Protocols.

`pipelines` implement them over real parts, tests over fakes; the edge never learns which. Every method takes the
`Principal` first, raises `HubError` children only, and works on validated wire types.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from aihub.engines.base import Embedder, PartHealth
from aihub.errors import HubError
from aihub.security.principal import Principal
from aihub.settings import Settings
from aihub.telemetry.metrics import Metrics, RequestMetrics

if TYPE_CHECKING:
    from aihub.api.lifecycle_service import LifecycleService
    from aihub.api.recsys_service import PredictionService, RecsysService
    from aihub.api.registry_service import RegistryService
    from aihub.schemas.chat import ChatCompletionRequest
    from aihub.schemas.common import DeletedObject, Page
    from aihub.schemas.completions import CompletionRequest
    from aihub.schemas.files import FileObject
    from aihub.schemas.vector_stores import (
        FileBatchCreate,
        FileBatchObject,
        FileContentPage,
        SearchRequest,
        SearchResults,
        VectorStoreCreate,
        VectorStoreFileCreate,
        VectorStoreFileObject,
        VectorStoreFileUpdate,
        VectorStoreObject,
        VectorStoreUpdate,
    )

Order = Literal["asc", "desc"]
FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]


class ChatService(Protocol):
    """Answers by a chat model, with or without retrieval.

    Plain calls return OpenAI's response object as JSON values. Streams return finished server-sent event text, the last
    frame being `data: [DONE]`; awaiting `open_*` raises every error that can be known before the first byte, and
    closing the generator (`aclose`) stops the engine.
    """

    async def chat(self, principal: Principal, request: "ChatCompletionRequest") -> dict[str, Any]: ...

    async def open_chat_stream(self, principal: Principal, request: "ChatCompletionRequest") -> AsyncGenerator[str, None]: ...

    async def complete(self, principal: Principal, request: "CompletionRequest") -> dict[str, Any]: ...

    async def open_complete_stream(self, principal: Principal, request: "CompletionRequest") -> AsyncGenerator[str, None]: ...

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """Chat models as OpenAI model objects (`id`, `object`, `created`, `owned_by`)."""
        ...


class FileService(Protocol):
    """Uploaded files."""

    async def upload(
        self,
        principal: Principal,
        *,
        filename: str,
        purpose: str,
        content: AsyncIterator[bytes],
        expires_after_s: int | None = None,
        text_encoding: str | None = None,
    ) -> "FileObject":
        """Store the bytes; `PayloadTooLargeError` over the limit, nothing is left behind then."""
        ...

    async def list(
        self, principal: Principal, *, limit: int, after: str | None, order: Order, purpose: str | None
    ) -> "Page[FileObject]": ...

    async def get(self, principal: Principal, file_id: str) -> "FileObject": ...

    async def content(self, principal: Principal, file_id: str) -> "tuple[FileObject, AsyncIterator[bytes]]": ...

    async def delete(self, principal: Principal, file_id: str) -> "DeletedObject": ...


class VectorStoreService(Protocol):
    """Vector stores, the files attached to them, and search."""

    async def create(self, principal: Principal, request: "VectorStoreCreate") -> "VectorStoreObject": ...

    async def list(
        self, principal: Principal, *, limit: int, after: str | None, before: str | None, order: Order
    ) -> "Page[VectorStoreObject]": ...

    async def get(self, principal: Principal, store_id: str) -> "VectorStoreObject": ...

    async def update(self, principal: Principal, store_id: str, request: "VectorStoreUpdate") -> "VectorStoreObject": ...

    async def delete(self, principal: Principal, store_id: str) -> "DeletedObject": ...

    async def attach_file(
        self, principal: Principal, store_id: str, request: "VectorStoreFileCreate"
    ) -> "VectorStoreFileObject": ...

    async def list_files(
        self,
        principal: Principal,
        store_id: str,
        *,
        limit: int,
        after: str | None,
        before: str | None,
        order: Order,
        status: FileStatus | None,
    ) -> "Page[VectorStoreFileObject]": ...

    async def get_file(self, principal: Principal, store_id: str, file_id: str) -> "VectorStoreFileObject": ...

    async def update_file(
        self, principal: Principal, store_id: str, file_id: str, request: "VectorStoreFileUpdate"
    ) -> "VectorStoreFileObject": ...

    async def detach_file(self, principal: Principal, store_id: str, file_id: str) -> "DeletedObject": ...

    async def file_content(self, principal: Principal, store_id: str, file_id: str) -> "FileContentPage":
        """The text the file was parsed to."""
        ...

    async def search(self, principal: Principal, store_id: str, request: "SearchRequest") -> "SearchResults": ...


MAX_CONCURRENT_UPLOADS = 8
"""Bounds the temporary disk space of one process to this many files."""


def new_upload_slots() -> asyncio.Semaphore:
    """One for each upload that may be received at a time."""
    return asyncio.Semaphore(MAX_CONCURRENT_UPLOADS)


MAX_WAITING_TRAININGS = 16
"""Requests of one process that may wait for a training to end; each keeps a place of the API busy for as long as that takes."""


class WaitingPlaces:
    """A limit on requests that wait for something long."""

    def __init__(self, places: int) -> None:
        self._free = places

    @contextmanager
    def take(self, refusal: HubError) -> Iterator[None]:
        """Hold a place until left.

        Raises:
            HubError: `refusal`, when none is free.
        """
        if self._free <= 0:
            raise refusal
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def new_training_places() -> WaitingPlaces:
    return WaitingPlaces(MAX_WAITING_TRAININGS)


class FileBatchService(Protocol):
    """Files attached to a vector store together."""

    async def create(self, principal: Principal, store_id: str, request: "FileBatchCreate") -> "FileBatchObject": ...

    async def get(self, principal: Principal, store_id: str, batch_id: str) -> "FileBatchObject": ...

    async def cancel(self, principal: Principal, store_id: str, batch_id: str) -> "FileBatchObject": ...

    async def list_files(
        self,
        principal: Principal,
        store_id: str,
        batch_id: str,
        *,
        limit: int,
        after: str | None,
        before: str | None,
        order: Order,
        status: FileStatus | None,
    ) -> "Page[VectorStoreFileObject]": ...


async def no_metrics() -> bytes:
    """Metrics of other processes where there are none."""
    return b""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may call; kept in `app.state.services`.

    Attributes:
        registry: Every model the hub could use.
        lifecycle: Local models in memory.
        recsys: Recommendations of each store.
        health: State of each part by name (`llm`, `models`, `embeddings`, `recsys`, `postgres`,
            `redis`); must answer within 2 s and
            never raise.
        more_metrics: Metrics of other processes in Prometheus' text format.
        replica_metrics: `metrics` of all replicas of this application, where it may have several.
        upload_slots: Shared by all applications of the process, as their temporary files are on one disk.
        training_places: For requests that wait until a training ends; shared likewise.
    """

    settings: Settings
    chat: ChatService
    embedder: Embedder
    files: FileService
    vector_stores: VectorStoreService
    file_batches: FileBatchService
    registry: "RegistryService"
    lifecycle: "LifecycleService"
    recsys: "RecsysService"
    health: Callable[[], Awaitable[dict[str, PartHealth]]]
    metrics: Metrics
    more_metrics: Callable[[], Awaitable[bytes]] = no_metrics
    replica_metrics: Callable[[], Awaitable[bytes]] | None = None
    upload_slots: asyncio.Semaphore = field(default_factory=new_upload_slots)
    training_places: WaitingPlaces = field(default_factory=new_training_places)


@dataclass(frozen=True, slots=True)
class PredictionServices:
    """What `/predict` may call where it is served alone."""

    settings: Settings
    recsys: "PredictionService"
    metrics: RequestMetrics
