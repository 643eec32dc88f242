"""A stored chat over real PostgreSQL and Redis, with a fake engine behind it."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from aihub.chat.fake import FakeChatEngine
from aihub.chat.messages import Message, check_order
from aihub.chat.routing import Decision, ModelCandidate
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatEngine
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.remembered_preferences import RememberedPreferences
from aihub.conversations.tables.records import MessageRecord
from aihub.conversations.tables.store import ConversationStore
from aihub.conversations.tables.turns import TurnTable
from aihub.conversations.turns import Turns
from aihub.core.cache import Cache
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord
from aihub.core.schemas import validate
from pipelines.context_window import ContextWindows
from pipelines.conversation_summary import ConversationSummaries
from pipelines.load_wait import LoadWait
from pipelines.stored_chat import StoredChat
from tests.unit.pipelines.rag_parts import Hub, OneModel, hub

_messages = TypeAdapter(list[Message])


class LoadedModel(OneModel):
    """A directory with one loaded model, which `auto` chooses."""

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        return await super().resolve(principal, "fake-chat" if model_id == "auto" else model_id, body, wait=wait)

    async def decide(self, principal: Principal, body: Mapping[str, Any]) -> Decision:
        return Decision("fake-chat", "chat", ())

    async def candidates(self) -> Sequence[ModelCandidate]:
        info = await self._engine.model_info()
        return [ModelCandidate(info.model_id, frozenset({"chat"}), frozenset({"en"}), "loaded", info.context_tokens)]


@dataclass
class StoredHub:
    """One replica.

    Attributes:
        records: What summaries cost.
    """

    parts: Hub
    chat: StoredChat
    turns: Turns
    store: ConversationStore
    principal: Principal
    summaries: ConversationSummaries
    records: list[RequestRecord] = field(default_factory=list)

    @property
    def engine(self) -> FakeChatEngine:
        return self.parts.engine

    async def ask(
        self, question: str | list[dict[str, Any]], conversation_id: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        return await self.chat.chat(self.principal, stored_request(question, conversation_id, **fields))

    async def stream(
        self, question: str | list[dict[str, Any]], conversation_id: str | None = None, **fields: Any
    ) -> AsyncGenerator[str, None]:
        request = stored_request(question, conversation_id, stream=True, **fields)
        return await self.chat.open_chat_stream(self.principal, request)

    async def rows(self, conversation_id: str) -> list[MessageRecord]:
        page = await self.store.page(self.principal, conversation_id, limit=1000)
        return page.messages

    async def told(self, conversation_id: str) -> list[tuple[str, str, str]]:
        """Role, text and status of every stored message."""
        rows = await self.rows(conversation_id)
        return [(row.role, row.message["content"], row.status) for row in rows]

    def prompt(self) -> list[tuple[str, str]]:
        """What the engine was told last."""
        return [(message["role"], message["content"]) for message in self.engine.bodies[-1]["messages"]]


@asynccontextmanager
async def stored_hub(
    database: Database,
    redis_url: str | None,
    tenant: str,
    *texts: str,
    engine: FakeChatEngine | None = None,
    answer: Callable[[str], str] | None = None,
    user_id: str | None = "user_linh",
    summary: bool = False,
    **times_s: Any,
) -> AsyncIterator[StoredHub]:
    """Open a replica; `texts` are what retrieval finds."""
    parts = hub(*texts, engine=engine, answer=answer)
    directory = LoadedModel(parts.engine)
    parts.chat._engines = directory
    cache = Cache(redis_url)
    turns = Turns(TurnTable(database), RecentTurns(cache), **times_s)
    records: list[RequestRecord] = []
    summaries = ConversationSummaries(turns, records.append)
    store = ConversationStore(database)
    preferences = RememberedPreferences(store.read_preferences, memory_s=0)
    windows = ContextWindows(directory, directory.candidates)
    chat = StoredChat(parts.chat, turns, windows, preferences, summaries if summary else None)
    try:
        yield StoredHub(parts, chat, turns, store, Principal(tenant, user_id=user_id), summaries, records)
    finally:
        await summaries.close()
        await turns.close()
        await cache.close()


def stored_request(
    question: str | list[dict[str, Any]], conversation_id: str | None = None, **fields: Any
) -> ChatCompletionRequest:
    """A request to a conversation; without an id it begins one."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    place = {"store": True} if conversation_id is None else {"conversation_id": conversation_id}
    return validate(ChatCompletionRequest, {"model": "fake-chat", "messages": messages, **place, **fields})


async def read_all(stream: AsyncGenerator[str, None]) -> str:
    return "".join([frame async for frame in stream])


def text_of_stream(transcript: str) -> str:
    """What a client shows of a stream."""
    said = ""
    for event in transcript.split("\n\n"):
        if event.startswith("data: {"):
            for choice in json.loads(event.removeprefix("data: ")).get("choices", ()):
                said += choice["delta"].get("content") or ""
    return said


def assert_valid(messages: Sequence[Mapping[str, Any]]) -> None:
    """What every chat template takes: one system message at most, then user and assistant in turns, and each call answered."""
    check_order(_messages.validate_python([dict(message) for message in messages]))
    spoken = [message["role"] for message in messages if message["role"] != "tool"]
    spoken = spoken[1:] if spoken[:1] == ["system"] else spoken
    assert "system" not in spoken
    assert all(before != after or before == "assistant" for before, after in zip(spoken, spoken[1:], strict=False)), spoken
    assert spoken[0] == "user"


async def until_asked(engine: FakeChatEngine) -> None:
    """Wait until the engine answers somebody."""
    async with asyncio.timeout(10):
        while not engine.active:  # noqa: ASYNC110  # the fake has no event to wait for
            await asyncio.sleep(0.01)
