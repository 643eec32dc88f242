"""Conversations while PostgreSQL or Redis is away."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import HubError, StorageUnavailableError
from aihub.core.postgres import Database
from tests.external_servers import ExternalPostgres, ExternalRedis
from tests.unit.pipelines.conversation_parts import StoredHub, stored_hub, text_of_stream, until_asked
from tests.unit.pipelines.rag_parts import data_of


@pytest.fixture
async def outside(external_postgres: ExternalPostgres) -> AsyncIterator[Database]:
    database = Database(external_postgres.url, pool_size=2, timeout_s=1.0)
    await database.open()
    yield database
    await database.close()


async def ask_patiently(replica: StoredHub, question: str, conversation_id: str) -> None:
    """Ask until PostgreSQL is back."""
    async with asyncio.timeout(20):
        while True:
            try:
                await replica.ask(question, conversation_id)
                return
            except StorageUnavailableError:
                await asyncio.sleep(0.2)


async def test_without_postgresql_a_conversation_is_refused_before_the_model_is_asked(
    outside: Database, external_postgres: ExternalPostgres
) -> None:
    async with stored_hub(outside, None, "outage-1") as replica:
        conversation_id = (await replica.ask("one"))["conversation_id"]
        external_postgres.crash()
        try:
            for call in (replica.ask, replica.stream):
                with pytest.raises(HubError) as caught:
                    await call("two", conversation_id)
                assert isinstance(caught.value, StorageUnavailableError)
                assert caught.value.retry_after_s
            assert len(replica.engine.bodies) == 1
        finally:
            external_postgres.start()


@pytest.mark.parametrize("streamed", [True, False])
async def test_answer_is_given_while_postgresql_is_away_and_stored_when_it_is_back(
    outside: Database, external_postgres: ExternalPostgres, streamed: bool
) -> None:
    engine = FakeChatEngine(token_s=0.1)
    async with stored_hub(outside, None, "outage-2", engine=engine) as replica:
        conversation_id = (await replica.ask("one"))["conversation_id"]
        if streamed:
            stream = await replica.stream("two two two two two", conversation_id)
            external_postgres.crash()
            text = "".join([frame async for frame in stream])
            assert text_of_stream(text) == "You said: two two two two two"
            assert data_of(text)[-1]["aihub"] == {"stored": False}
        else:
            asking = asyncio.create_task(replica.ask("two two two two two", conversation_id))
            await until_asked(engine)
            external_postgres.crash()
            answer = await asking
            assert answer["aihub"]["stored"] is False
            assert answer["choices"][0]["message"]["content"] == "You said: two two two two two"
        external_postgres.start()
        await ask_patiently(replica, "three", conversation_id)
        told = [
            ("user", "one"),
            ("assistant", "You said: one"),
            ("user", "two two two two two"),
            ("assistant", "You said: two two two two two"),
            ("user", "three"),
        ]
        assert replica.prompt() == told
        rows = await replica.told(conversation_id)
        assert [(role, text) for role, text, _ in rows] == [*told, ("assistant", "You said: three")]
        assert {status for _, _, status in rows} == {"completed"}


async def test_late_answer_is_stored_without_another_request(outside: Database, external_postgres: ExternalPostgres) -> None:
    async with stored_hub(outside, None, "outage-3", engine=FakeChatEngine(token_s=0.1)) as replica:
        conversation_id = (await replica.ask("one"))["conversation_id"]
        stream = await replica.stream("two two two", conversation_id)
        external_postgres.crash()
        async for _ in stream:
            pass
        external_postgres.start()
        async with asyncio.timeout(20):
            while True:
                await asyncio.sleep(0.2)
                try:
                    rows = await replica.told(conversation_id)
                except StorageUnavailableError:
                    continue
                if rows[-1] == ("assistant", "You said: two two two", "completed"):
                    break
        assert len(rows) == 4


async def test_frozen_postgresql_holds_no_answer_back(outside: Database, external_postgres: ExternalPostgres) -> None:
    async with stored_hub(outside, None, "outage-4", engine=FakeChatEngine(token_s=0.05)) as replica:
        stream = await replica.stream("one two three")
        external_postgres.send(signal.SIGSTOP)
        try:
            async with asyncio.timeout(8):
                text = "".join([frame async for frame in stream])
        finally:
            external_postgres.send(signal.SIGCONT)
        assert text_of_stream(text) == "You said: one two three"
        assert data_of(text)[-1]["aihub"] == {"stored": False}


async def test_conversations_go_on_while_redis_comes_and_goes(database: Database, tenant: str) -> None:
    redis = ExternalRedis()
    try:
        redis.start()
        async with stored_hub(database, redis.url, tenant) as replica:
            conversation_id = (await replica.ask("one"))["conversation_id"]
            await replica.ask("two", conversation_id)
            redis.send(signal.SIGKILL)
            await replica.ask("three", conversation_id)
            redis.start()
            await replica.ask("four", conversation_id)
            assert [text for role, text in replica.prompt() if role == "user"] == ["one", "two", "three", "four"]
    finally:
        redis.remove()
