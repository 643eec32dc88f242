"""How models have answered lately, as rows of requests tell it."""

from psycopg.rows import class_row

from aihub.core.postgres import Database
from aihub.usage.service import PastAnswer
from aihub.usage.tables.usage_figures import FAILED

WITHIN_HOURS = 6
ANSWERS_PER_MODEL = 50


class PastAnswerTable:
    """Reads table `usage_records`; implements `aihub.usage.service.PastAnswers`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def past_answers(self) -> list[PastAnswer]:
        """Return the newest answers and failures of each model, the oldest first.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer.
        """
        query = f"""
            SELECT model, extract(epoch FROM now() - at)::float8 AS ago_s, {FAILED} AS is_failure, completion_tokens AS tokens,
                CASE WHEN first_token_ms IS NULL THEN waited_ms ELSE total_ms - first_token_ms END / 1000 AS seconds,
                greatest(first_token_ms - queued_ms, 0) / 1000 AS first_token_s
            FROM (
                SELECT *, row_number() OVER (PARTITION BY model ORDER BY at DESC) AS newest FROM usage_records
                WHERE at > now() - make_interval(hours => %s) AND task IN ('chat', 'completions', 'voice') AND model <> ''
                    AND cache <> 'hit' AND (status < 400 OR {FAILED})
            ) AS answers
            WHERE newest <= %s ORDER BY at
        """  # noqa: S608  # constants
        async with self._database.connection() as connection, connection.cursor(row_factory=class_row(PastAnswer)) as cursor:
            await cursor.execute(query, (WITHIN_HOURS, ANSWERS_PER_MODEL))
            return await cursor.fetchall()
