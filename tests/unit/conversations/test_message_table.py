"""What PostgreSQL alone does with messages: pages bounded in bytes, summaries that go with what they told, restarts."""

from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.search import text_query
from aihub.conversations.tables.conversations import get_conversation
from aihub.conversations.tables.messages import read_messages
from aihub.conversations.tables.store import ConversationStore
from aihub.core.embedded.stores import StoreUrls
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from tests.unit.conversations.conversation_parts import begin


async def test_page_ends_where_its_bytes_are_used_up_and_the_next_goes_on(database: Database, principal: Principal) -> None:
    record = await begin(ConversationStore(database), principal, *("x" * 1_000 for _ in range(5)), "klein")
    async with database.connection() as connection:
        seen, behind, pages = 0, None, 0
        has_more = True
        while has_more:
            rows, has_more = await read_messages(
                connection, principal.tenant_id, record.id, limit=10, behind=behind, max_bytes=2_000
            )
            seen, behind, pages = seen + len(rows), rows[-1].position, pages + 1
        assert (seen, pages) == (6, 3)
        rows, has_more = await read_messages(connection, principal.tenant_id, record.id, limit=10, max_bytes=1)
        assert (len(rows), has_more) == (1, True)


async def test_summary_is_forgotten_with_a_message_that_it_may_tell_and_kept_with_others(
    database: Database, principal: Principal
) -> None:
    storage = ConversationStore(database)
    record = await begin(storage, principal, "bí mật", "b", "c", "d")
    messages = (await storage.page(principal, record.id, limit=4)).messages
    async with database.connection() as connection:
        await connection.execute("UPDATE conversations SET summary = 'x', summary_position = 1 WHERE id = %s", (record.id,))
        await storage.edit(principal, record.id, messages[2].id, lambda found: None)
        assert (await get_conversation(connection, principal, record.id)).summary == "x"
        await storage.edit(principal, record.id, messages[1].id, lambda found: None)
        found = await get_conversation(connection, principal, record.id)
    assert (found.summary, found.summary_position) == (None, None)


async def test_copies_are_told_of_what_was_deleted(database: Database, principal: Principal) -> None:
    told: list[tuple[Principal, str]] = []

    async def forget(who: Principal, conversation_id: str) -> None:
        told.append((who, conversation_id))

    storage = ConversationStore(database)
    conversations = Conversations(storage, check_message, forget=forget)
    record = await begin(storage, principal, "a", "b")
    messages = (await storage.page(principal, record.id, limit=4)).messages
    await conversations.delete_item(principal, record.id, messages[0].id)
    await conversations.delete(principal, record.id)
    assert told == [(principal, record.id)] * 2


async def test_searches_are_planned_for_their_own_words_each_time(embedded_stores: StoreUrls, principal: Principal) -> None:
    database = Database(embedded_stores.database_url, pool_size=1, timeout_s=5.0)
    await database.open()
    storage = ConversationStore(database)
    query = text_query(principal.tenant_id, principal.owner_id, "máy tính")
    assert query is not None
    for _ in range(12):
        await storage.search(principal, query, limit=5, behind=None)
        await storage.recent(principal, limit=5, behind=None)
    async with database.connection() as connection:
        cursor = await connection.execute("SELECT statement LIKE '%ts_rank_cd%' FROM pg_prepared_statements")
        prepared = [is_search for (is_search,) in await cursor.fetchall()]
    await database.close()
    assert prepared and not any(prepared)


async def test_conversations_outlive_the_process(embedded_stores: StoreUrls, principal: Principal) -> None:
    ids = []
    for number in range(2):
        database = Database(embedded_stores.database_url, pool_size=1, timeout_s=5.0)
        await database.open()
        conversations = Conversations(ConversationStore(database), check_message)
        ids.insert(0, (await begin(ConversationStore(database), principal, f"lần {number}")).id)
        page = await conversations.search(principal, limit=5, cursor=None, query="lan")
        await database.close()
    assert sorted(found.id for found in page.data) == sorted(ids)
