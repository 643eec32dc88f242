"""What goes with a deleted user, and that nothing of theirs comes after it."""

import asyncio
from dataclasses import replace

import pytest

from aihub.accounts.tables.users import UserTable
from aihub.chat.fake import FakeChatEngine
from aihub.conversations.tables.conversations import create_conversation
from aihub.conversations.tables.records import NewMessage
from aihub.conversations.tables.store import ConversationStore
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import AuthenticationError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from tests.unit.accounts.account_parts import CountedDatabase, make_key
from tests.unit.pipelines.conversation_parts import read_all, stored_hub, text_of_stream, until_asked

QUESTION = NewMessage({"role": "user", "content": "Xin chào"})


async def caller(database: Database, name: str) -> Principal:
    """A new user of the default tenant, with a key."""
    key = await make_key(database, user=name)
    user = await UserTable(database).get("default", name)
    return Principal("default", "user", user_id=user.id, key_id=key.key_id)


async def count(database: Database, table: str, principal: Principal) -> int:
    async with database.connection() as connection:
        cursor = await connection.execute(
            f"SELECT count(*) FROM {table} WHERE tenant_id = %s AND owner_id = %s",  # noqa: S608  # a constant
            (principal.tenant_id, principal.owner_id),
        )
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_conversations_and_preferences_go_with_their_user_and_others_stay(accounts_database: CountedDatabase) -> None:
    store, lan, mai = (
        ConversationStore(accounts_database),
        await caller(accounts_database, "lan"),
        await caller(accounts_database, "mai"),
    )
    elsewhere = replace(lan, tenant_id="other", key_id=None)  # the same id in another tenant is somebody else
    for principal in (lan, lan, mai, elsewhere, Principal()):
        await store.create(principal, metadata={}, title=None, new=[QUESTION])
        await store.write_preferences(principal, {"language": "vi"})
    deleted = await UserTable(accounts_database).delete("default", "lan")
    assert (deleted.id, deleted.keys, deleted.conversations) == (lan.user_id, 1, 2)
    for table in ("conversations", "preferences"):
        assert [await count(accounts_database, table, who) for who in (lan, mai, elsewhere, Principal())] == [0, 1, 1, 1]
    await UserTable(accounts_database).delete("default", "mai")


async def test_deletion_waits_for_what_is_being_stored_and_takes_it_along(accounts_database: CountedDatabase) -> None:
    lan = await caller(accounts_database, "lan")
    async with accounts_database.transaction() as connection:
        await create_conversation(connection, lan, messages=[QUESTION])
        deletion = asyncio.create_task(UserTable(accounts_database).delete("default", "lan"))
        await asyncio.sleep(0.2)
        assert not deletion.done()
    assert (await deletion).conversations == 1
    assert await count(accounts_database, "conversations", lan) == 0


async def test_nothing_is_stored_for_a_user_who_is_gone(accounts_database: CountedDatabase) -> None:
    store, lan = ConversationStore(accounts_database), await caller(accounts_database, "lan")
    await UserTable(accounts_database).delete("default", "lan")
    with pytest.raises(AuthenticationError):
        await store.create(lan, metadata={}, title=None, new=[QUESTION])
    with pytest.raises(AuthenticationError):
        await store.write_preferences(lan, {"language": "vi"})
    assert [await count(accounts_database, table, lan) for table in ("conversations", "preferences")] == [0, 0]


async def test_conversations_begun_while_their_user_is_deleted_are_gone_or_never_were(accounts_database: CountedDatabase) -> None:
    store = ConversationStore(accounts_database)
    for _ in range(10):
        lan = await caller(accounts_database, "lan")
        work = [store.create(lan, metadata={}, title=None, new=[QUESTION]) for _ in range(3)]
        results = await asyncio.gather(
            *work,
            UserTable(accounts_database).delete("default", "lan"),
            store.create(lan, metadata={}, title=None, new=[QUESTION]),
            store.write_preferences(lan, {"language": "vi"}),
            return_exceptions=True,
        )
        assert {type(result) for result in results if isinstance(result, BaseException)} <= {AuthenticationError}
        assert [await count(accounts_database, table, lan) for table in ("conversations", "preferences")] == [0, 0]


async def test_chats_of_a_user_who_is_deleted_meanwhile_are_answered_and_leave_nothing(
    accounts_database: CountedDatabase, embedded_stores: StoreUrls
) -> None:
    lan = await caller(accounts_database, "lan")
    engine = FakeChatEngine(token_s=0.1)
    async with stored_hub(accounts_database, embedded_stores.redis_url, "default", engine=engine) as replica:
        replica.principal = lan
        conversation_id = (await replica.ask("Tôi tên là Lan."))["conversation_id"]
        streams = [await replica.stream("Xin chào"), await replica.stream("Tôi tên gì?", conversation_id)]
        readers = [asyncio.create_task(read_all(stream)) for stream in streams]
        await until_asked(engine)
        assert (await UserTable(accounts_database).delete("default", "lan")).conversations == 2
        for transcript in await asyncio.gather(*readers):
            assert text_of_stream(transcript).startswith("You said: ")
            assert '"stored":false' in transcript.replace(" ", "")
        with pytest.raises(AuthenticationError):
            await replica.ask("Còn đó không?")
    assert await count(accounts_database, "conversations", lan) == 0
