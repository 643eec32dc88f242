"""Applications over their Serve handles, dressed as the engines of `aihub.engines.base`."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aihub.engines.base import ChatModelCard, EmbedderCard, Embeddings, PartHealth
from deployments.handles import AppConnection


class LLMHandle:
    """A local LLM application as a `ChatEngine`."""

    def __init__(self, connection: AppConnection) -> None:
        self._connection = connection
        self._card: ChatModelCard | None = None
        self._card_lock = asyncio.Lock()

    async def card(self) -> ChatModelCard:
        if self._card is None:
            # Once for all who ask: in a burst, a call each would fill the model's queue, and the refusals would wait in it.
            async with self._card_lock:
                if self._card is None:
                    self._card = await self._connection.call("card")
        return self._card

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await self._connection.call("chat_once", body)
        return answer

    def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._connection.stream("chat_stream", body)

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await self._connection.call("complete_once", body)
        return answer

    def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._connection.stream("complete_stream", body)

    async def count_tokens(self, body: dict[str, Any]) -> int:
        count: int = await self._connection.call("count_tokens", body)
        return count

    async def health(self) -> PartHealth:
        return self._connection.health


class EmbedderHandle:
    """The embeddings application as an `Embedder`."""

    def __init__(self, connection: AppConnection) -> None:
        self._connection = connection
        self._card: EmbedderCard | None = None

    async def card(self) -> EmbedderCard:
        if self._card is None:
            self._card = await self._connection.call("card")
        return self._card

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        embeddings: Embeddings = await self._connection.call("embed", list(inputs))
        return embeddings

    async def health(self) -> PartHealth:
        return self._connection.health
