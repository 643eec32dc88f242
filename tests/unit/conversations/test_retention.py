"""Old conversations go, beside requests, and nobody else's work with them."""

import asyncio

import psycopg
import pytest

from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.fake import MemoryStorage
from aihub.conversations.recent_turns import RecentTurns
from aihub.conversations.retention import PAUSE_S, Retention
from aihub.conversations.schemas import ConversationCreate
from aihub.conversations.settings import ConversationSettings
from aihub.conversations.tables import conversations as table
from aihub.conversations.tables.store import ConversationStore
from aihub.conversations.tables.turns import TurnTable
from aihub.conversations.turns import Turns
from aihub.core.cache import Cache
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ConfigurationError, NotFoundError, StorageUnavailableError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from tests.unit.conversations.conversation_parts import begin


class CountingStorage(MemoryStorage):
    """Has `left` old conversations, and no database where `error` is set."""

    def __init__(self, left: int = 0, error: StorageUnavailableError | None = None) -> None:
        super().__init__()
        self.left = left
        self.error = error
        self.passes: list[int] = []

    async def delete_unused(self, days: int) -> int:
        self.passes.append(days)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.left, deleted = max(0, self.left - 200), min(200, self.left)
        return deleted


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


async def test_pass_runs_to_the_end_and_not_again_before_an_hour(clock: list[float]) -> None:
    storage = CountingStorage(450)
    retention = Retention(storage, 30, clock=lambda: clock[0])
    for _ in range(3):
        retention.note_request()
    await retention.settle()
    assert (storage.passes, storage.left) == ([30] * 4, 0)
    clock[0] = PAUSE_S - 1
    retention.note_request()
    await retention.settle()
    assert len(storage.passes) == 4
    clock[0] = PAUSE_S
    retention.note_request()
    await retention.settle()
    assert len(storage.passes) == 5


async def test_nothing_is_deleted_where_no_days_are_set() -> None:
    storage = CountingStorage(5)
    conversations = Conversations(storage, check_message)
    await conversations.create(Principal(), ConversationCreate())
    await conversations.search(Principal(), limit=1, cursor=None, query=None)
    await conversations.retention.settle()
    assert storage.passes == []


async def test_request_does_not_wait_for_the_pass_and_an_outage_in_it_is_none_of_the_request(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    storage = CountingStorage(5, StorageUnavailableError("PostgreSQL is away."))
    conversations = Conversations(storage, check_message, days=7)
    await conversations.create(Principal(), ConversationCreate())
    assert storage.passes == []
    await conversations.retention.settle()
    assert storage.passes == [7]
    assert "PostgreSQL is away." in caplog.text
    await conversations.close()


async def test_only_what_nobody_used_for_so_long_is_deleted_and_never_what_is_being_written(
    database: Database, embedded_stores: StoreUrls, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_DELETED_AT_ONCE", 2)
    storage = ConversationStore(database)
    other = Principal(principal.tenant_id, user_id="user_other")
    old = [await begin(storage, owner, "cũ") for owner in (principal, other, principal, other)]
    recent = await begin(storage, principal, "mới")
    busy = await begin(storage, principal, "đang viết")
    answered = await begin(storage, principal, "đang trả lời")
    async with await psycopg.AsyncConnection.connect(embedded_stores.database_url) as writer:
        await writer.execute(
            "UPDATE conversations SET updated_at = now() - interval '31 days' WHERE tenant_id = %s AND id <> %s",
            (principal.tenant_id, recent.id),
        )
        await writer.execute(
            "UPDATE conversations SET turn_token = 'x', turn_until = now() + interval '30 seconds' WHERE id = %s", (answered.id,)
        )
        await writer.execute("UPDATE conversations SET turn_until = now() - interval '1 hour' WHERE id = %s", (old[0].id,))
        await writer.commit()
        await writer.execute("SELECT FROM conversations WHERE id = %s FOR NO KEY UPDATE", (busy.id,))
        retention = Retention(storage, 30)
        retention.note_request()
        await retention.settle()
    kept, _ = await storage.recent(principal, limit=10, behind=None)
    assert {record.id for record in kept} == {recent.id, busy.id, answered.id}
    for record in old:
        with pytest.raises(NotFoundError):
            await storage.get(Principal(principal.tenant_id, user_id=record.owner_id), record.id)


async def test_turn_of_a_chat_begins_a_pass(database: Database, principal: Principal) -> None:
    storage = CountingStorage()
    retention = Retention(storage, 7)
    turns = Turns(TurnTable(database), RecentTurns(Cache(None)), note_request=retention.note_request)
    turn = await turns.create(principal, None, [{"role": "user", "content": "chào"}])
    await retention.settle()
    assert storage.passes == [7]
    await turn.take_back()
    await turns.close()


@pytest.mark.parametrize("value", ["0", "-1", "x", "36501", "1.5"])
def test_wrong_number_of_days_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AIHUB_CONVERSATION_DAYS", value)
    with pytest.raises(ConfigurationError, match="AIHUB_CONVERSATION_DAYS"):
        ConversationSettings()


def test_days_are_read_and_none_where_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_CONVERSATION_DAYS", "90")
    assert ConversationSettings().days == 90
    monkeypatch.setenv("AIHUB_CONVERSATION_DAYS", "")
    assert ConversationSettings().days is None
