"""Messages of conversations: appended in order, read in pages that are bounded by count and by bytes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.conversations.messages import (
    MAX_MESSAGE_BYTES,
    MAX_MESSAGES,
    derive_title,
    message_json,
    searchable_text,
)
from aihub.conversations.search import text_vector
from aihub.conversations.tables.records import MessageRecord, NewMessage, Order, new_message_id
from aihub.core.errors import ConflictError, InvalidRequestError, NotFoundError
from aihub.core.postgres import Connection
from aihub.core.principal import Principal

PAGE_BYTES = 8 * 2**20
"""Messages of one page together, unless its first is larger: pages hold what fits into memory, whatever is stored."""

_SHORT_CHARACTERS = 4_000  # texts up to here are split into words within a millisecond

_COLUMNS: LiteralString = """
    id, position, role, message, status, model, usage, request_id, size_bytes,
    floor(extract(epoch FROM created_at))::bigint AS created_at
"""


def not_found(conversation_id: str) -> NotFoundError:
    """Return the error for a conversation that is not there, or is somebody else's."""
    return NotFoundError(f"No conversation with id {conversation_id[:64]!r}.", code="conversation_not_found")


@dataclass(frozen=True, slots=True)
class _Row:
    """What a new message becomes."""

    role: str
    json: str
    size_bytes: int
    vector: str
    title: str | None


async def append_messages(
    connection: Connection, principal: Principal, conversation_id: str, messages: Sequence[NewMessage]
) -> list[MessageRecord]:
    """Store messages at the end of a conversation; call it inside a transaction.

    The conversation's row stays locked until the commit, so that two callers' messages do not mix. Its title and model follow.

    Raises:
        NotFoundError: The conversation is gone or somebody else's.
        ConflictError: It would hold more than `MAX_MESSAGES` (`conversation_full`).
        InvalidRequestError: A message has more than `MAX_MESSAGE_BYTES` (`message_too_large`).
    """
    rows = await _prepare(principal, messages)
    title = next((row.title for row in rows if row.title is not None), None)
    model = next((message.model for message in reversed(messages) if message.model is not None), None)
    first = await _reserve(connection, principal, conversation_id, len(rows), title, model)
    stored = []
    for position, (row, message) in enumerate(zip(rows, messages, strict=True), start=first):
        async with connection.cursor(row_factory=class_row(MessageRecord)) as cursor:
            await cursor.execute(
                f"""
                INSERT INTO conversation_messages (tenant_id, conversation_id, position, id, role, message, status, model,
                    usage, request_id, size_bytes, search_vector)
                VALUES (%(tenant)s, %(conversation)s, %(position)s, %(id)s, %(role)s, %(message)s::jsonb, %(status)s, %(model)s,
                    %(usage)s, %(request)s, %(size)s, %(vector)s::tsvector)
                RETURNING {_COLUMNS}
                """,  # noqa: S608  # constants
                {
                    "tenant": principal.tenant_id,
                    "conversation": conversation_id,
                    "position": position,
                    "id": message.id or new_message_id(),
                    "role": row.role,
                    "message": row.json,
                    "status": message.status,
                    "model": message.model,
                    "usage": None if message.usage is None else Jsonb(message.usage),
                    "request": message.request_id,
                    "size": row.size_bytes,
                    "vector": row.vector,
                },
            )
            stored.extend(await cursor.fetchall())
    return stored


async def _prepare(principal: Principal, messages: Sequence[NewMessage]) -> list[_Row]:
    if sum(len(searchable_text(message.message)) for message in messages) <= _SHORT_CHARACTERS:
        return [_prepare_one(principal, message) for message in messages]
    return await asyncio.to_thread(lambda: [_prepare_one(principal, message) for message in messages])


def _prepare_one(principal: Principal, message: NewMessage) -> _Row:
    text = message_json(message.message)
    size_bytes = len(text.encode())
    if size_bytes > MAX_MESSAGE_BYTES:
        raise InvalidRequestError(
            f"A message of {size_bytes} bytes cannot be kept in a conversation; at most {MAX_MESSAGE_BYTES} are.",
            code="message_too_large",
        )
    vector = text_vector(principal.tenant_id, principal.owner_id, searchable_text(message.message))
    return _Row(message.message["role"], text, size_bytes, vector, derive_title(message.message))


async def _reserve(
    connection: Connection, principal: Principal, conversation_id: str, count: int, title: str | None, model: str | None
) -> int:
    """Return the position of the first of `count` new messages."""
    cursor = await connection.execute(
        """
        UPDATE conversations SET next_position = next_position + %(count)s, message_count = message_count + %(count)s,
            updated_at = greatest(clock_timestamp(), updated_at), model = coalesce(%(model)s, model),
            title_vector = CASE
                WHEN title IS NULL AND %(title)s::text IS NOT NULL THEN %(vector)s::tsvector ELSE title_vector END,
            title = coalesce(title, %(title)s)
        WHERE tenant_id = %(tenant)s AND owner_id = %(owner)s AND id = %(id)s
        RETURNING next_position - %(count)s, message_count
        """,
        {
            "count": count,
            "model": model,
            "title": title,
            "vector": "" if title is None else text_vector(principal.tenant_id, principal.owner_id, title),
            "tenant": principal.tenant_id,
            "owner": principal.owner_id,
            "id": conversation_id,
        },
    )
    found = await cursor.fetchone()
    if found is None:
        raise not_found(conversation_id)
    if found[1] > MAX_MESSAGES:
        raise ConflictError(
            f"The conversation would hold more than {MAX_MESSAGES:,} messages. Begin a new one.", code="conversation_full"
        )
    return int(found[0])


async def read_messages(
    connection: Connection,
    tenant_id: str,
    conversation_id: str,
    *,
    limit: int,
    behind: int | None = None,
    order: Order = "asc",
    max_bytes: int = PAGE_BYTES,
) -> tuple[list[MessageRecord], bool]:
    """Return one page of a conversation that the caller has looked up, and whether more follow.

    Args:
        limit: Most messages.
        behind: Position in front of the first one, in the direction of reading; None begins at the end.
        max_bytes: Most bytes of JSON together; the first message comes whatever its size.
    """
    is_descending = order == "desc"
    down: LiteralString = "position < %(behind)s ORDER BY position DESC"
    up: LiteralString = "position > %(behind)s ORDER BY position"
    direction = down if is_descending else up
    if behind is None:
        behind = 2**31 - 1 if is_descending else -1
    async with connection.cursor(row_factory=class_row(MessageRecord)) as cursor:
        await cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM (
                SELECT *, sum(size_bytes) OVER (ROWS UNBOUNDED PRECEDING) - size_bytes AS bytes_before,
                    row_number() OVER (ROWS UNBOUNDED PRECEDING) AS number
                FROM (
                    SELECT * FROM conversation_messages
                    WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s AND {direction} LIMIT %(fetch)s
                ) AS near
            ) AS page WHERE (bytes_before < %(bytes)s AND number <= %(limit)s) OR number = 1 ORDER BY number
            """,  # noqa: S608  # constants
            {
                "tenant": tenant_id,
                "conversation": conversation_id,
                "behind": behind,
                "fetch": limit,
                "limit": limit,
                "bytes": max_bytes,
            },
        )
        rows = await cursor.fetchall()
    if not rows:
        return [], False
    remaining = await connection.execute(
        f"""
        SELECT FROM conversation_messages
        WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s AND {direction} LIMIT 1
        """,
        {"tenant": tenant_id, "conversation": conversation_id, "behind": rows[-1].position},
    )
    return rows, await remaining.fetchone() is not None


async def find_message(connection: Connection, tenant_id: str, conversation_id: str, message_id: str) -> MessageRecord | None:
    """Return one message of a conversation that the caller has looked up; None where there is no such."""
    async with connection.cursor(row_factory=class_row(MessageRecord)) as cursor:
        await cursor.execute(
            f"""
            SELECT {_COLUMNS} FROM conversation_messages WHERE tenant_id = %s AND conversation_id = %s AND id = %s
            """,  # noqa: S608  # constants
            (tenant_id, conversation_id, message_id),
        )
        return await cursor.fetchone()


async def replace_message(
    connection: Connection, principal: Principal, conversation_id: str, position: int, message: dict[str, Any] | None
) -> None:
    """Put another message in the place of a stored one, or nothing; call it inside a transaction that locked the conversation.

    A summary that covers the place is forgotten, as it may tell what is to be gone.
    """
    place = {"tenant": principal.tenant_id, "conversation": conversation_id, "position": position}
    if message is None:
        cursor = await connection.execute(
            "DELETE FROM conversation_messages "
            "WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s AND position = %(position)s",
            place,
        )
        removed = cursor.rowcount
    else:
        (row,) = await _prepare(principal, [NewMessage(message)])
        await connection.execute(
            """
            UPDATE conversation_messages SET message = %(json)s::jsonb, size_bytes = %(size)s,
                search_vector = %(vector)s::tsvector
            WHERE tenant_id = %(tenant)s AND conversation_id = %(conversation)s AND position = %(position)s
            """,
            place | {"json": row.json, "size": row.size_bytes, "vector": row.vector},
        )
        removed = 0
    await connection.execute(
        """
        UPDATE conversations SET message_count = message_count - %(removed)s,
            updated_at = greatest(clock_timestamp(), updated_at),
            summary = CASE WHEN summary_position >= %(position)s THEN NULL ELSE summary END,
            summary_position = CASE WHEN summary_position >= %(position)s THEN NULL ELSE summary_position END
        WHERE tenant_id = %(tenant)s AND id = %(conversation)s
        """,
        place | {"removed": removed},
    )
