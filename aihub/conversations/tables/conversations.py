"""Table `conversations`. Every function is scoped by tenant and owner unless it says otherwise.

What is called inside a transaction takes its connection, so that turns of a chat can combine it.
"""

import secrets
from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.conversations.search import text_vector
from aihub.conversations.tables.messages import append_messages, not_found
from aihub.conversations.tables.owners import hold_owner
from aihub.conversations.tables.records import ConversationChanges, ConversationRecord, NewMessage
from aihub.core.postgres import Connection
from aihub.core.principal import Principal

NEWEST_US = 2**62
"""Microseconds of Unix time behind every row's."""

_DELETED_AT_ONCE = 200

CONVERSATION_COLUMNS: LiteralString = """
    item.tenant_id, item.id, item.owner_id, item.title, item.metadata, item.model, item.summary, item.summary_position,
    item.next_position, item.message_count, floor(extract(epoch FROM item.created_at))::bigint AS created_at,
    (extract(epoch FROM item.updated_at) * 1000000)::bigint AS updated_at_us
"""
OWN: LiteralString = "item.tenant_id = %(tenant)s AND item.owner_id = %(owner)s"


async def get_conversation(
    connection: Connection, principal: Principal, conversation_id: str, *, lock: bool = False
) -> ConversationRecord:
    """Return one conversation; with `lock` it can be neither changed nor deleted before the end of the transaction.

    Raises:
        NotFoundError: There is none, or it is somebody else's.
    """
    suffix: LiteralString = " FOR NO KEY UPDATE" if lock else ""
    async with connection.cursor(row_factory=class_row(ConversationRecord)) as cursor:
        await cursor.execute(
            f"SELECT {CONVERSATION_COLUMNS} FROM conversations AS item WHERE {OWN} AND item.id = %(id)s" + suffix,  # noqa: S608  # constants
            owner_values(principal) | {"id": conversation_id},
        )
        record = await cursor.fetchone()
    if record is None:
        raise not_found(conversation_id)
    return record


async def create_conversation(
    connection: Connection,
    principal: Principal,
    *,
    metadata: dict[str, str] | None = None,
    title: str | None = None,
    messages: Sequence[NewMessage] = (),
) -> ConversationRecord:
    """Store a new conversation with its first messages; call it inside a transaction.

    Raises:
        AuthenticationError: The caller's key was deleted, as with its user.
        InvalidRequestError: A message is too large.
    """
    await hold_owner(connection, principal)
    conversation_id = f"conv_{secrets.token_hex(12)}"
    await connection.execute(
        """
        INSERT INTO conversations (tenant_id, id, owner_id, title, metadata, title_vector)
        VALUES (%(tenant)s, %(id)s, %(owner)s, %(title)s, %(metadata)s, %(vector)s::tsvector)
        """,
        owner_values(principal)
        | {
            "id": conversation_id,
            "title": title,
            "metadata": Jsonb(metadata or {}),
            "vector": _title_vector(principal, title),
        },
    )
    if messages:
        await append_messages(connection, principal, conversation_id, messages)
    return await get_conversation(connection, principal, conversation_id)


async def list_conversations(
    connection: Connection, principal: Principal, *, limit: int, behind: tuple[int, str] | None
) -> tuple[list[ConversationRecord], bool]:
    """Return one page, the last changed first, and whether more follow.

    Args:
        behind: `updated_at_us` and id of the last one that was seen.
    """
    updated_at_us, conversation_id = behind or (NEWEST_US, "")
    async with connection.cursor(row_factory=class_row(ConversationRecord)) as cursor:
        await cursor.execute(
            f"""
            SELECT {CONVERSATION_COLUMNS} FROM conversations AS item WHERE {OWN}
                AND (item.updated_at, item.id) < (to_timestamp(0) + %(updated)s * interval '1 microsecond', %(id)s)
            ORDER BY item.updated_at DESC, item.id DESC LIMIT %(fetch)s
            """,  # noqa: S608  # constants
            owner_values(principal) | {"updated": updated_at_us, "id": conversation_id, "fetch": limit + 1},
        )
        rows = await cursor.fetchall()
    return rows[:limit], len(rows) > limit


async def update_conversation(
    connection: Connection, principal: Principal, conversation_id: str, changes: ConversationChanges
) -> ConversationRecord:
    """Change the given fields.

    Raises:
        NotFoundError: There is none, or it is somebody else's.
    """
    title = changes.get("title")
    await connection.execute(
        f"""
        UPDATE conversations AS item SET
            title = CASE WHEN %(has_title)s THEN %(title)s ELSE title END,
            title_vector = CASE WHEN %(has_title)s THEN %(vector)s::tsvector ELSE title_vector END,
            metadata = CASE WHEN %(has_metadata)s THEN %(metadata)s ELSE metadata END,
            updated_at = greatest(clock_timestamp(), updated_at)
        WHERE {OWN} AND item.id = %(id)s
        """,  # noqa: S608  # constants
        owner_values(principal)
        | {
            "id": conversation_id,
            "has_title": "title" in changes,
            "title": title,
            "vector": _title_vector(principal, title),
            "has_metadata": "metadata" in changes,
            "metadata": Jsonb(changes.get("metadata") or {}),
        },
    )
    return await get_conversation(connection, principal, conversation_id)


async def delete_conversation(connection: Connection, principal: Principal, conversation_id: str) -> None:
    """Delete a conversation with its messages; whoever still writes to it finds it gone.

    Raises:
        NotFoundError: There is none, or it is somebody else's.
    """
    cursor = await connection.execute(
        f"DELETE FROM conversations AS item WHERE {OWN} AND item.id = %(id)s",  # noqa: S608  # constants
        owner_values(principal) | {"id": conversation_id},
    )
    if cursor.rowcount == 0:
        raise not_found(conversation_id)


async def delete_unused(connection: Connection, days: int) -> int:
    """Delete some conversations of all tenants in which nothing happened for so many days; return how many.

    One that is being written to, or answered in, is left alone.
    """
    cursor = await connection.execute(
        """
        DELETE FROM conversations WHERE (tenant_id, id) IN (
            SELECT tenant_id, id FROM conversations WHERE updated_at < now() - make_interval(days => %(days)s)
                AND coalesce(turn_until < now(), true)
            ORDER BY updated_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
        )
        """,
        {"days": days, "most": _DELETED_AT_ONCE},
    )
    return cursor.rowcount


def _title_vector(principal: Principal, title: str | None) -> str:
    return "" if title is None else text_vector(principal.tenant_id, principal.owner_id, title)


def owner_values(principal: Principal) -> dict[str, Any]:
    """Return the parameters of `OWN`."""
    return {"tenant": principal.tenant_id, "owner": principal.owner_id}
