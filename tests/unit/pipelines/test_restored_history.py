"""What `auto` knows of its models after a restart, from the rows of a real database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aihub.chat.history import EngineHistory
from aihub.core.errors import StorageUnavailableError
from aihub.core.postgres import Database
from aihub.usage.rows import UsageRow
from aihub.usage.service import PastAnswer
from aihub.usage.tables.past_answers import ANSWERS_PER_MODEL, PastAnswerTable
from aihub.usage.tables.usage_records import UsageTable
from pipelines.restored_history import restore_history
from tests.unit.usage.usage_parts import row


def answer(tenant: str, ago: timedelta, number: int, **changes: Any) -> UsageRow:
    """100 tokens in 2 s after a first token that took 0.5 s, 0.2 s of them in a queue."""
    values: dict[str, Any] = {
        "streamed": True,
        "completion_tokens": 100,
        "queued_ms": 200.0,
        "first_token_ms": 500.0,
        "total_ms": 2500.0,
    }
    return row(tenant, datetime.now(UTC) - ago, request_id=f"req_{number}")._replace(**values | changes)


async def restored(database: Database) -> EngineHistory:
    history = EngineHistory()
    await restore_history(history, PastAnswerTable(database))
    return history


async def test_speeds_and_errors_of_the_last_hours_are_known_again(database: Database, tenant: str) -> None:
    fast, broken = f"{tenant}/nhanh", f"{tenant}/hỏng"
    rows = [answer(tenant, timedelta(hours=5, seconds=number), number, model=fast) for number in range(10)]
    rows += [answer(tenant, timedelta(seconds=10 + number), number, model=broken, status=503) for number in range(10)]
    await UsageTable(database).insert(rows)
    history = await restored(database)
    assert history.of(fast).tokens_per_s == pytest.approx(50.0, rel=0.01)
    assert history.of(fast).first_token_s == pytest.approx(0.3, rel=0.01)
    assert history.of(fast).error_rate == 0.0
    assert history.of(broken).error_rate > 0.8
    assert history.of(broken).tokens_per_s is None


async def test_old_errors_have_faded_and_the_newest_answers_count(database: Database, tenant: str) -> None:
    rows = [answer(tenant, timedelta(hours=3, seconds=number), number, model=tenant, status=500) for number in range(20)]
    rows += [
        answer(tenant, timedelta(minutes=5, seconds=number), 100 + number, model=tenant) for number in range(ANSWERS_PER_MODEL)
    ]
    await UsageTable(database).insert(rows)
    history = await restored(database)
    assert history.of(tenant).error_rate < 0.01
    assert history.of(tenant).requests == ANSWERS_PER_MODEL


async def test_what_says_nothing_of_a_model_is_left_out(database: Database, tenant: str) -> None:
    rows = [
        answer(tenant, timedelta(minutes=1), 1, model=tenant, status=400, error_code="invalid_value"),
        answer(tenant, timedelta(minutes=1), 2, model=tenant, status=499),
        answer(tenant, timedelta(minutes=1), 3, model=tenant, cache="hit"),
        answer(tenant, timedelta(minutes=1), 4, model=tenant, task="embeddings"),
        answer(tenant, timedelta(hours=7), 5, model=tenant),
    ]
    await UsageTable(database).insert(rows)
    assert (await restored(database)).of(tenant).requests == 0


async def test_answer_that_was_not_streamed_is_timed_by_what_was_waited_for(database: Database, tenant: str) -> None:
    values: dict[str, Any] = {"model": tenant, "streamed": False, "first_token_ms": None, "waited_ms": 4000.0, "total_ms": 9000.0}
    await UsageTable(database).insert([answer(tenant, timedelta(minutes=1), 1, **values)])
    assert (await restored(database)).of(tenant).tokens_per_s == pytest.approx(25.0, rel=0.01)


async def test_history_stays_empty_while_the_rows_cannot_be_read() -> None:
    class Away:
        async def past_answers(self) -> list[PastAnswer]:
            raise StorageUnavailableError("The database does not answer.")

    history = EngineHistory()
    await restore_history(history, Away())
    assert history.of("m").requests == 0
