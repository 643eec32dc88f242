"""Table `conversations`: one owner's conversations, newest first, and those whose texts hold the words of a query."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.conversations.tables.messages import append_messages, not_found
from aihub.conversations.tables.records import ConversationRecord, NewMessage
from aihub.core.postgres import Connection, Database
from aihub.core.principal import Principal

MAX_HITS = 2_000
"""Newest messages with the words of a query that are ranked."""

DELETE_TIMEOUT_S = 60.0
_DELETED_AT_ONCE = 200

_COLUMNS: LiteralString = """
    item.tenant_id, item.id, item.owner_id, item.title, item.metadata, item.model, item.summary, item.summary_position,
    item.next_position, item.message_count, floor(extract(epoch FROM item.created_at))::bigint AS created_at,
    (extract(epoch FROM item.updated_at) * 1000000)::bigint AS updated_at_us
"""
_OWN: LiteralString = "item.tenant_id = %(tenant)s AND item.owner_id = %(owner)s"


@dataclass(frozen=True, slots=True)
class SearchHit:
    """The best message, or the title, of a conversation that was found.

    Attributes:
        is_exact: All words stand there as they were asked for.
        score: Higher where the words are many and close together.
        message_id: None where it is the title.
        text: Of the message or the title, its beginning where it is long.
    """

    conversation: ConversationRecord
    is_exact: bool
    score: float
    message_id: str | None
    text: str


@dataclass(frozen=True, slots=True)
class SearchPlace:
    """Where a page of found conversations ended; pages are ordered by these, descending."""

    is_exact: bool
    score: float
    updated_at_us: int
    id: str


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
            f"SELECT {_COLUMNS} FROM conversations AS item WHERE {_OWN} AND item.id = %(id)s" + suffix,  # noqa: S608
            _scope(principal) | {"id": conversation_id},
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
        InvalidRequestError: A message is too large.
    """
    conversation_id = f"conv_{secrets.token_hex(12)}"
    await connection.execute(
        """
        INSERT INTO conversations (tenant_id, id, owner_id, title, metadata, title_vector)
        VALUES (%(tenant)s, %(id)s, %(owner)s, %(title)s, %(metadata)s, %(vector)s::tsvector)
        """,
        _scope(principal)
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


class ConversationTable:
    """Every call is scoped by tenant and owner. All methods raise `StorageUnavailableError` when PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, principal: Principal, *, limit: int, behind: tuple[int, str] | None
    ) -> tuple[list[ConversationRecord], bool]:
        """Return one page, the last changed first, and whether more follow.

        Args:
            behind: `updated_at_us` and id of the last one that was seen.
        """
        updated_at_us, conversation_id = behind or (2**62, "")
        async with self._database.connection() as connection, connection.cursor(row_factory=_record) as cursor:
            await cursor.execute(
                f"""
                SELECT {_COLUMNS} FROM conversations AS item WHERE {_OWN}
                    AND (item.updated_at, item.id) < (to_timestamp(0) + %(updated)s * interval '1 microsecond', %(id)s)
                ORDER BY item.updated_at DESC, item.id DESC LIMIT %(fetch)s
                """,  # noqa: S608  # constants
                _scope(principal) | {"updated": updated_at_us, "id": conversation_id, "fetch": limit + 1},
            )
            rows = await cursor.fetchall()
        return rows[:limit], len(rows) > limit
