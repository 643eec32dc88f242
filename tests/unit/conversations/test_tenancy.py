"""Whoever does whatever, nobody sees or changes what belongs to another account: random operations against a plain model."""

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.schemas import ConversationCreate, ConversationUpdate, ItemsCreate, PreferencesUpdate
from aihub.conversations.tables.store import ConversationStore
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import NotFoundError
from aihub.core.postgres import Database
from aihub.core.principal import Principal

OWNERS = [("a", "linh"), ("a", "minh"), ("a", None), ("b", "linh"), ("b", None)]
ACTIONS = ["create", "add", "rename", "delete", "read", "items", "delete item", "export", "list", "search", "prefer"]

steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, len(OWNERS) - 1), st.integers(0, 7)), min_size=5, max_size=25)


@dataclass
class Known:
    """What the model holds of one conversation."""

    owner: int
    title: str | None
    texts: list[str] = field(default_factory=list)


@dataclass
class World:
    """Accounts of fresh tenants, and what they should find."""

    conversations: Conversations
    prefix: str
    known: dict[str, Known] = field(default_factory=dict)
    styles: dict[int, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def principal(self, owner: int) -> Principal:
        tenant, user = OWNERS[owner]
        return Principal(f"{self.prefix}-{tenant}", user_id=user)

    def own(self, owner: int) -> set[str]:
        return {key for key, known in self.known.items() if known.owner == owner}

    async def act(self, action: str, owner: int, target: int) -> None:
        """One step; asks for a conversation that may be anybody's."""
        ids = list(self.known)
        conversation_id = ids[target % len(ids)] if ids else "conv_" + "0" * 24
        is_own = conversation_id in self.own(owner)
        who, service = self.principal(owner), self.conversations
        match action:
            case "create":
                await self.create(owner)
            case "list":
                assert await self.listed(owner, None) == self.own(owner)
            case "search":
                texts = [text for known in self.known.values() for text in known.texts]
                word = texts[target % len(texts)] if texts else "từ"
                expected = {key for key in self.own(owner) if word in [*self.known[key].texts, self.known[key].title]}
                assert await self.listed(owner, word) == expected
            case "prefer":
                self.styles[owner] = f"style {next(self.numbers)}"
                await service.set_preferences(who, PreferencesUpdate(style=self.styles[owner]))
                for other in range(len(OWNERS)):
                    found = await service.preferences(self.principal(other))
                    assert found.style == self.styles.get(other)
            case _ if is_own:
                await self.act_on_own(action, owner, conversation_id)
            case _:
                with pytest.raises(NotFoundError):
                    await self.act_on(action, who, conversation_id, "mine")

    async def create(self, owner: int) -> None:
        text = f"từ{next(self.numbers)}"
        body = ConversationCreate(items=[{"role": "user", "content": text}])
        created = await self.conversations.create(self.principal(owner), body)
        self.known[created.id] = Known(owner, text, [text])

    async def act_on_own(self, action: str, owner: int, conversation_id: str) -> None:
        known, word = self.known[conversation_id], f"từ{next(self.numbers)}"
        await self.act_on(action, self.principal(owner), conversation_id, word)
        if action == "delete":
            del self.known[conversation_id]
        elif action == "rename":
            known.title = word
        elif action == "add":
            known.texts.append(word)
        elif action == "delete item" and known.texts:
            known.texts.pop()

    async def act_on(self, action: str, who: Principal, conversation_id: str, word: str) -> None:
        service, texts = self.conversations, self.known[conversation_id].texts if conversation_id in self.known else []
        match action:
            case "add":
                await service.add_items(who, conversation_id, ItemsCreate(items=[{"role": "user", "content": word}]))
            case "rename":
                await service.update(who, conversation_id, ConversationUpdate(title=word))
            case "delete":
                await service.delete(who, conversation_id)
            case "read":
                details = await service.read(who, conversation_id, limit=100, after=None, order="asc")
                assert [message.message["content"] for message in details.messages.data] == texts
            case "items":
                page = await service.items(who, conversation_id, limit=100, after=None, order="asc")
                assert [item["content"][0]["text"] for item in page.data] == texts
            case "delete item":
                page = await service.items(who, conversation_id, limit=1, after=None, order="desc")
                for item in page.data:
                    await service.delete_item(who, conversation_id, item["id"])
            case "export":
                document = b"".join([piece async for piece in await service.export(who, conversation_id)])
                assert all(text.encode() in document for text in texts)

    async def listed(self, owner: int, query: str | None) -> set[str]:
        seen: set[str] = set()
        cursor = None
        while True:
            page = await self.conversations.search(self.principal(owner), limit=3, cursor=cursor, query=query)
            assert not seen.intersection(found.id for found in page.data)
            seen.update(found.id for found in page.data)
            cursor = page.next_cursor
            if cursor is None:
                return seen


def test_no_account_reaches_what_another_has(embedded_stores: StoreUrls) -> None:
    database = Database(embedded_stores.database_url, pool_size=2, timeout_s=10.0)
    prefix = f"tenancy-{secrets.token_hex(4)}"
    numbers = itertools.count()

    @settings(max_examples=40, deadline=None)
    @given(steps)
    def check(chosen: list[tuple[str, int, int]]) -> None:
        world = World(Conversations(ConversationStore(database), check_message), f"{prefix}-{next(numbers)}")

        async def run() -> None:
            for owner in range(len(OWNERS)):
                await world.create(owner)
            for action, owner, target in chosen:
                await world.act(action, owner, target)
            for owner in range(len(OWNERS)):
                assert await world.listed(owner, None) == world.own(owner)

        runner.run(run())

    with asyncio.Runner() as runner:
        runner.run(database.open())
        try:
            check()
        finally:
            runner.run(database.close())
            with psycopg.connect(embedded_stores.database_url, autocommit=True) as connection:
                connection.execute("DELETE FROM conversations WHERE tenant_id LIKE %s", (f"{prefix}-%",))
                connection.execute("DELETE FROM preferences WHERE tenant_id LIKE %s", (f"{prefix}-%",))
