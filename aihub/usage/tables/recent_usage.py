"""What tenants asked in the last minute and hour."""

from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from aihub.core.postgres import Database

_QUERY = """
    SELECT tenant_id,
        count(*) FILTER (WHERE at >= %(minute)s) AS minute_requests,
        coalesce(sum(prompt_tokens) FILTER (WHERE at >= %(minute)s AND cache <> 'hit'), 0)::bigint AS minute_prompt_tokens,
        coalesce(sum(completion_tokens) FILTER (WHERE at >= %(minute)s AND cache <> 'hit'), 0)::bigint
            AS minute_completion_tokens,
        count(*) AS hour_requests,
        coalesce(sum(prompt_tokens) FILTER (WHERE cache <> 'hit'), 0)::bigint AS hour_prompt_tokens,
        coalesce(sum(completion_tokens) FILTER (WHERE cache <> 'hit'), 0)::bigint AS hour_completion_tokens
    FROM usage_records WHERE at >= %(hour)s
    GROUP BY tenant_id ORDER BY hour_requests DESC, tenant_id LIMIT %(most)s
"""


_TOKENS_OF_KEY = """
    SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::bigint FROM usage_records
    WHERE key_id = %s AND at >= date_trunc('day', now(), 'UTC') AND cache <> 'hit'
"""


class RecentUsage(NamedTuple):
    """Requests that have ended, and the tokens of those that were not answered from the cache."""

    tenant_id: str
    minute_requests: int
    minute_prompt_tokens: int
    minute_completion_tokens: int
    hour_requests: int
    hour_prompt_tokens: int
    hour_completion_tokens: int


class RecentUsageTable:
    """Reads table `usage_records`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, *, minute: datetime, hour: datetime, most: int) -> list[RecentUsage]:
        """Return the busiest tenants since `hour`, at most `most`.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer.
        """
        async with self._database.connection() as connection, connection.cursor(row_factory=class_row(RecentUsage)) as cursor:
            await cursor.execute(_QUERY, {"minute": minute, "hour": hour, "most": most})
            return await cursor.fetchall()

    async def tokens_today(self, key_id: str) -> int:
        """Return the tokens of a key's requests since midnight UTC, without those answered from the cache.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer.
        """
        async with self._database.connection() as connection:
            row = await (await connection.execute(_TOKENS_OF_KEY, (key_id,))).fetchone()
            return int(row[0]) if row is not None else 0
