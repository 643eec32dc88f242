import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from aihub.core.errors import InternalError, StorageUnavailableError
from aihub.core.postgres import Database
from aihub.core.request_record import RequestRecord
from aihub.usage import recorder as recorder_module
from aihub.usage.metrics import UsageMetrics
from aihub.usage.recorder import FLUSH_PERIOD_S, UsageRecorder
from aihub.usage.rows import UsageRow
from aihub.usage.service import Cost
from aihub.usage.tables.usage_records import UsageTable
from tests.external_servers import ExternalPostgres
from tests.unit.usage.usage_parts import record, row, stored, until


class Costs:
    """A `CostSource` that knows each cost after it was asked for it so many times."""

    def __init__(self, *, asked_before: int = 0, delay_s: float = 0.0) -> None:
        self._asked_before = asked_before
        self._delay_s = delay_s
        self.asked: list[str] = []

    def begin(self, record: RequestRecord) -> None:
        """Measure nothing."""

    def end(self, record: RequestRecord) -> None:
        """Measure nothing."""

    async def costs(self, records: Sequence[RequestRecord]) -> Mapping[str, Cost]:
        await asyncio.sleep(self._delay_s)
        known = {}
        for item in records:
            if self.asked.count(item.work_id) >= self._asked_before:
                known[item.work_id] = Cost(cpu_s=1.5, gpu_s=0.5, joules=100.0)
            self.asked.append(item.work_id)
        return known


class RefusingTable(UsageTable):
    def __init__(self) -> None:
        self.tries = 0

    async def insert(self, rows: Sequence[UsageRow]) -> None:
        self.tries += 1
        raise InternalError("The database refused a statement.")

    async def delete_before(self, at: datetime, *, most: int) -> int:
        return 0


class AwayTable(UsageTable):
    """PostgreSQL that comes back when told."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.is_away = True
        self.tries = 0

    async def insert(self, rows: Sequence[UsageRow]) -> None:
        self.tries += 1
        if self.is_away:
            raise StorageUnavailableError("The database does not answer.")
        await super().insert(rows)


def counted(metrics: UsageMetrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("aihub_usage_rows_total", {"outcome": outcome}) or 0.0


async def test_rows_are_written_within_a_second_and_then_no_task_is_left(database: Database, tenant: str) -> None:
    recorder = UsageRecorder(UsageTable(database), days=90)
    before = asyncio.all_tasks()
    sent = record(tenant, request_id="req_vội")
    recorder.record(sent)
    await asyncio.sleep(1.0)
    assert [found.request_id for found in await stored(database, tenant)] == ["req_vội"]
    assert asyncio.all_tasks() == before
    recorder.record(record(tenant, request_id="req_sau"))
    await recorder.close()
    assert [found.request_id for found in await stored(database, tenant)] == ["req_vội", "req_sau"]


async def test_record_returns_at_once_and_the_period_bounds_how_often_is_written(database: Database, tenant: str) -> None:
    table = AwayTable(database)
    table.is_away = False
    recorder = UsageRecorder(table, days=90)
    ends_s = time.monotonic() + 2 * FLUSH_PERIOD_S
    count = 0
    slowest_s = 0.0
    while time.monotonic() < ends_s:
        began_s = time.perf_counter()
        recorder.record(record(tenant))
        slowest_s = max(slowest_s, time.perf_counter() - began_s)
        count += 1
        await asyncio.sleep(0.02)
    await recorder.close()
    assert len(await stored(database, tenant)) == count
    assert table.tries <= 4
    assert slowest_s < 0.02


async def test_many_at_once_with_the_same_request_id_are_a_row_each(database: Database, tenant: str) -> None:
    recorder = UsageRecorder(UsageTable(database), days=90)

    async def client(number: int) -> None:
        for _ in range(50):
            recorder.record(record(tenant, request_id="req_của_tôi", prompt_tokens=number))
            await asyncio.sleep(0)

    await asyncio.gather(*(client(number) for number in range(20)))
    await recorder.close()
    rows = await stored(database, tenant)
    assert len(rows) == 1000
    assert sorted({found.prompt_tokens for found in rows}) == list(range(20))
    assert len({found.at for found in rows}) == 1000


async def test_batch_that_is_written_twice_counts_once(database: Database, tenant: str) -> None:
    table = UsageTable(database)
    rows = [row(tenant, datetime(2026, 11, 27, tzinfo=UTC), request_id=f"req_{number}") for number in range(3)]
    await table.insert(rows)
    await table.insert(rows)
    assert len(await stored(database, tenant)) == 3


async def test_rows_wait_for_postgresql_and_the_oldest_are_dropped_and_counted(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "MAX_WAITING_ROWS", 100)
    monkeypatch.setattr(recorder_module, "FLUSH_PERIOD_S", 0.01)
    monkeypatch.setattr(recorder_module, "RETRY_PERIOD_S", 0.02)
    table, metrics = AwayTable(database), UsageMetrics()
    recorder = UsageRecorder(table, metrics, days=90)
    for number in range(150):
        recorder.record(record(tenant, prompt_tokens=number))
    await until(lambda: table.tries >= 2)
    assert counted(metrics, "dropped") == 50
    assert metrics.registry.get_sample_value("aihub_usage_rows_waiting") == 100
    table.is_away = False
    await until(lambda: counted(metrics, "written") == 100)
    assert [found.prompt_tokens for found in await stored(database, tenant)] == list(range(50, 150))
    await recorder.close()


async def test_restart_of_postgresql_loses_nothing(external_postgres: ExternalPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_PERIOD_S", 0.05)
    monkeypatch.setattr(recorder_module, "RETRY_PERIOD_S", 0.1)
    tenant = "khởi-động-lại"
    database = Database(external_postgres.url, pool_size=2, timeout_s=1.0)
    await database.open()
    metrics = UsageMetrics()
    recorder = UsageRecorder(UsageTable(database), metrics, days=90)
    recorder.record(record(tenant, prompt_tokens=0))
    await asyncio.to_thread(external_postgres.send, signal.SIGINT)
    for number in range(1, 20):
        recorder.record(record(tenant, prompt_tokens=number))
        await asyncio.sleep(0.02)
    external_postgres.start()  # In this thread: the server ends with the one that started it.
    await until(lambda: counted(metrics, "written") == 20)
    await recorder.close()
    assert [found.prompt_tokens for found in await stored(database, tenant)] == list(range(20))
    await database.close()


async def test_rows_that_postgresql_refuses_are_counted_and_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_PERIOD_S", 0.01)
    monkeypatch.setattr(recorder_module, "RETRY_PERIOD_S", 0.01)
    table, metrics = RefusingTable(), UsageMetrics()
    recorder = UsageRecorder(table, metrics, days=90)
    recorder.record(record("t"))
    await until(lambda: counted(metrics, "refused") == 1)
    recorder.record(record("t"))
    await until(lambda: counted(metrics, "refused") == 2)
    await recorder.close()
    assert table.tries == 2


async def test_close_while_postgresql_is_away_ends_in_time_and_counts_what_is_lost(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "CLOSE_TIMEOUT_S", 0.5)
    metrics = UsageMetrics()
    recorder = UsageRecorder(AwayTable(database), metrics, days=90)
    recorder.record(record(tenant))
    began_s = time.monotonic()
    await recorder.close()
    assert time.monotonic() - began_s < 2.0
    assert counted(metrics, "dropped") == 1


async def test_cost_that_is_known_at_once_is_written_with_the_row(database: Database, tenant: str) -> None:
    recorder = UsageRecorder(UsageTable(database), days=90, costs=Costs())
    recorder.record(record(tenant))
    await recorder.close()
    [found] = await stored(database, tenant)
    assert (found.cpu_s, found.gpu_s, found.joules) == (1.5, 0.5, 100.0)


async def test_cost_that_comes_later_is_added_to_the_written_row(database: Database, tenant: str) -> None:
    costs = Costs(asked_before=2)
    recorder = UsageRecorder(UsageTable(database), days=90, costs=costs)
    sent = record(tenant)
    recorder.record(sent)
    await asyncio.sleep(1.5 * FLUSH_PERIOD_S)
    assert [found.cpu_s for found in await stored(database, tenant)] == [None]
    await asyncio.sleep(2 * FLUSH_PERIOD_S)
    assert [found.cpu_s for found in await stored(database, tenant)] == [1.5]
    assert costs.asked == [sent.work_id] * 3
    await recorder.close()


async def test_cost_that_nobody_tells_is_no_longer_asked_for_and_the_row_stays(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_PERIOD_S", 0.05)
    monkeypatch.setattr(recorder_module, "PRICE_TIMEOUT_S", 0.3)
    costs = Costs(asked_before=1000)
    recorder = UsageRecorder(UsageTable(database), days=90, costs=costs)
    before = asyncio.all_tasks()
    recorder.record(record(tenant))
    await asyncio.sleep(0.7)
    assert asyncio.all_tasks() == before
    assert 3 <= len(costs.asked) <= 12
    assert [found.cpu_s for found in await stored(database, tenant)] == [None]


async def test_slow_teller_of_costs_does_not_hold_rows_back(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "ASK_TIMEOUT_S", 0.05)
    recorder = UsageRecorder(UsageTable(database), days=90, costs=Costs(delay_s=30.0))
    recorder.record(record(tenant))
    await asyncio.sleep(FLUSH_PERIOD_S + 0.4)
    assert [found.cpu_s for found in await stored(database, tenant)] == [None]
    await recorder.close()


async def test_rows_older_than_the_kept_days_are_deleted_in_batches(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_PERIOD_S", 0.02)
    monkeypatch.setattr(recorder_module, "CLEAN_ROWS", 10)
    table, now = UsageTable(database), datetime.now(UTC)
    await table.insert([row(tenant, now - timedelta(days=31, seconds=number)) for number in range(35)])
    await table.insert([row(tenant, now - timedelta(days=29), request_id="req_giữ_lại")])
    recorder = UsageRecorder(table, days=30)
    recorder.record(record(tenant, request_id="req_mới"))
    await asyncio.sleep(0.5)
    assert [found.request_id for found in await stored(database, tenant)] == ["req_giữ_lại", "req_mới"]
    # Not again within the hour.
    await table.insert([row(tenant, now - timedelta(days=31))])
    recorder.record(record(tenant))
    await recorder.close()
    assert len(await stored(database, tenant)) == 4


async def test_row_waits_for_work_that_outlives_its_request(database: Database, tenant: str) -> None:
    recorder = UsageRecorder(UsageTable(database), days=90)
    sent = record(tenant, request_id="req_first_to_ask", completion_tokens=0)
    sent.begin_work()
    sent.begin_work()
    recorder.record(sent)
    sent.end_work()
    await asyncio.sleep(2 * FLUSH_PERIOD_S)
    assert await stored(database, tenant) == []
    sent.note_usage({"prompt_tokens": 3, "completion_tokens": 20})
    sent.end_work()
    await recorder.close()
    assert [(row.request_id, row.completion_tokens) for row in await stored(database, tenant)] == [("req_first_to_ask", 20)]
