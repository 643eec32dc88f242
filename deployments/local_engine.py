"""A local model as the engine of one request: it is known which requests each model has."""

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Protocol, Self

from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.health import PartHealth
from aihub.core.principal import DEFAULT_TENANT
from aihub.core.request_record import get_record
from deployments.told_usage import stream_with_usage


class RequestCount(Protocol):
    """`deployments.model_directory.ModelDirectory`."""

    def note_begin(self, model_id: str) -> None: ...

    def note_end(self, model_id: str) -> None: ...


class LocalEngine:
    """A local model as the `ChatEngine` of one request, which is counted once.

    Args:
        adapter_id: The adapter of the model that answers; the model itself when None.
    """

    def __init__(self, engine: ChatEngine, model_id: str, directory: RequestCount, adapter_id: str | None = None) -> None:
        self._engine = engine
        self._model_id = model_id
        self._name = adapter_id or model_id
        self._directory = directory
        self._is_held = False
        self._cache_salt: str | None = None

    def for_tenant(self, tenant_id: str) -> Self:
        """Keep what the engine remembers of prompts (its KV cache) apart by tenant, and return this engine.

        A prompt that another tenant has sent would be answered faster, which tells that it was sent. The default tenant has no
        salt, so that a hub without accounts works as ever.
        """
        if tenant_id != DEFAULT_TENANT:
            self._cache_salt = hashlib.sha256(f"aihub:tenant:{tenant_id}".encode()).hexdigest()
        return self

    async def model_info(self) -> ChatModelInfo:
        with self._counted():
            return await self._engine.model_info()

    async def health(self) -> PartHealth:
        return await self._engine.health()

    async def count_tokens(self, body: dict[str, Any]) -> int:
        with self._counted():
            return await self._engine.count_tokens(body)

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._counted():
            return await self._engine.chat(self._named(body))

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._counted():
            return await self._engine.complete(self._named(body))

    async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        with self._counted():
            async with aclosing(stream_with_usage(self._engine.stream_chat, self._named(body))) as frames:
                async for frame in frames:
                    yield frame

    async def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        with self._counted():
            async with aclosing(stream_with_usage(self._engine.stream_complete, self._named(body))) as frames:
                async for frame in frames:
                    yield frame

    def _named(self, body: dict[str, Any]) -> dict[str, Any]:
        get_record().note_model(self._name)
        # The client may have said `auto`, `local/...` or an alias; the engine knows a model and versions of adapters.
        named = body | {"model": self._name}
        return named if self._cache_salt is None else named | {"cache_salt": self._cache_salt}

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Count the request from now on, and not again for what it asks; see `aihub.chat.service.hold`."""
        with self._counted():
            was_held, self._is_held = self._is_held, True
            try:
                yield
            finally:
                self._is_held = was_held

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._is_held:
            yield
            return
        self._directory.note_begin(self._model_id)
        try:
            yield
        finally:
            self._directory.note_end(self._model_id)
