"""Conversations whose messages or titles hold the words of a query, best first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import AsyncCursor
from psycopg.rows import RowMaker, dict_row

from aihub.conversations.search import MAX_INDEXED_CHARACTERS, TextQuery
from aihub.conversations.tables.conversations import CONVERSATION_COLUMNS, NEWEST_US, OWN, owner_values
from aihub.conversations.tables.records import ConversationRecord
from aihub.core.postgres import Connection
from aihub.core.principal import Principal

MAX_HITS = 2_000
"""Newest messages with the words of a query that are ranked."""


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


_BEST_SCORE = 1e30
_SEARCH: LiteralString = f"""
    WITH hits AS (
        (
            SELECT message.conversation_id, message.id AS message_id, message.position, message.search_vector AS vector
            FROM conversation_messages AS message
            JOIN conversations AS item ON item.tenant_id = message.tenant_id AND item.id = message.conversation_id
            WHERE {OWN} AND message.search_vector @@ %(scoped)s::tsquery
            ORDER BY message.created_at DESC, message.position DESC LIMIT %(most)s
        ) UNION ALL (
            SELECT item.id, NULL, -1, item.title_vector FROM conversations AS item
            WHERE {OWN} AND item.title_vector @@ %(scoped)s::tsquery
            ORDER BY item.updated_at DESC LIMIT %(most)s
        )
    ), best AS (
        SELECT DISTINCT ON (conversation_id) conversation_id, message_id, position, is_exact, score FROM (
            SELECT *, vector @@ %(exact)s::tsquery AS is_exact, ts_rank_cd(vector, %(words)s::tsquery)::float8 AS score FROM hits
        ) AS ranked ORDER BY conversation_id, is_exact DESC, score DESC, position DESC
    ), page AS (
        SELECT {CONVERSATION_COLUMNS}, best.is_exact, best.score, best.message_id, best.position
        FROM best JOIN conversations AS item ON {OWN} AND item.id = best.conversation_id
        WHERE (best.is_exact, best.score, item.updated_at, item.id)
            < (%(is_exact)s, %(score)s::float8, to_timestamp(0) + %(updated)s * interval '1 microsecond', %(id)s)
        ORDER BY best.is_exact DESC, best.score DESC, item.updated_at DESC, item.id DESC LIMIT %(fetch)s
    )
    SELECT page.*, CASE WHEN page.message_id IS NULL THEN page.title ELSE (
        SELECT CASE jsonb_typeof(message.message->'content')
            WHEN 'string' THEN left(message.message->>'content', %(shown)s)
            ELSE (
                SELECT left(string_agg(left(coalesce(part->>'text', part->>'refusal'), %(shown)s), ' ' ORDER BY number),
                    %(shown)s)
                FROM jsonb_array_elements(message.message->'content') WITH ORDINALITY AS parts (part, number)
            ) END
        FROM conversation_messages AS message
        WHERE message.tenant_id = %(tenant)s AND message.conversation_id = page.id AND message.position = page.position
    ) END AS text
    FROM page ORDER BY page.is_exact DESC, page.score DESC, page.updated_at_us DESC, page.id DESC
"""  # noqa: S608  # constants


async def search_conversations(
    connection: Connection, principal: Principal, query: TextQuery, *, limit: int, behind: SearchPlace | None
) -> tuple[list[SearchHit], bool]:
    """Return one page of conversations with all words of a query in one message or in the title, and whether more follow.

    Those with the words as written come first, then those with many of them close together, then the last changed.
    Of the messages that match, the `MAX_HITS` newest are looked at.
    """
    place = behind or SearchPlace(True, _BEST_SCORE, NEWEST_US, "")
    values = {
        "scoped": query.scoped,
        "words": query.words,
        "exact": query.exact,
        "most": MAX_HITS,
        "fetch": limit + 1,
        "shown": MAX_INDEXED_CHARACTERS,
        "is_exact": place.is_exact,
        "score": place.score,
        "updated": place.updated_at_us,
        "id": place.id,
    }
    async with connection.cursor(row_factory=_hit) as cursor:
        # A plan made once for all queries does not know how rare the words are, and reads every message of a large owner.
        await cursor.execute(_SEARCH, owner_values(principal) | values, prepare=False)
        rows = await cursor.fetchall()
    return rows[:limit], len(rows) > limit


def _hit(cursor: AsyncCursor[Any]) -> RowMaker[SearchHit]:
    make_dict = dict_row(cursor)

    def make(values: Sequence[Any]) -> SearchHit:
        row = make_dict(values)
        hit = {key: row.pop(key) for key in ("is_exact", "score", "message_id")}
        text = row.pop("text") or ""
        del row["position"]
        return SearchHit(ConversationRecord(**row), text=text, **hit)

    return make
