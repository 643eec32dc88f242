"""Figures of the machine: real ones, and what is told when a part is slow or away."""

import asyncio
import os
import re
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from aihub.core.errors import ModelUnavailableError, StorageUnavailableError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord
from aihub.core.schemas import validate
from aihub.http.app import create_app
from aihub.usage import machine, system
from aihub.usage.analytics import UsageAnalytics
from aihub.usage.rows import row_of
from aihub.usage.schemas import UsageQuery
from aihub.usage.system import SystemMetrics
from aihub.usage.tables.recent_usage import RecentUsage, RecentUsageTable
from aihub.usage.tables.usage_figures import UsageFiguresTable
from aihub.usage.tables.usage_records import UsageTable
from tests.unit.http.services import Parts
from tests.unit.usage.fake_nvml import FakeCard, install
from tests.unit.usage.usage_parts import row

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "usage.md").read_text(encoding="utf-8")
[DOCUMENTED_PATH] = re.findall(r"^curl -s localhost:8000(/api/v1/system/metrics) -H ", PAGE, re.MULTILINE)
MODEL = SimpleNamespace(model_id="tiny", state="ready", device="cpu", used_bytes=2**20, in_flight=3, waiting=1, tokens_per_s=41.5)


class Lifecycle:
    def __init__(self) -> None:
        self.delay_s = 0.0
        self.error: Exception | None = None
        self.asked = 0

    async def status(self) -> Any:
        self.asked += 1
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return SimpleNamespace(models=[MODEL])


class Recent:
    error: Exception | None = None

    async def read(self, *, minute: datetime, hour: datetime, most: int) -> list[RecentUsage]:
        if self.error is not None:
            raise self.error
        return [RecentUsage("shop", 1, 20, 30, 4, 50, 60)]


@pytest.fixture
def lifecycle() -> Lifecycle:
    return Lifecycle()


@pytest.fixture
def recent() -> Recent:
    return Recent()


@pytest.fixture
def metrics(lifecycle: Any, recent: Any, tmp_path: Path) -> SystemMetrics:
    return SystemMetrics(lifecycle, recent, tmp_path)


async def test_the_figures_of_a_machine_without_a_card(metrics: SystemMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    report = await metrics.report()
    assert report.missing == {}
    assert report.cpu is not None
    assert report.cpu.cores == len(os.sched_getaffinity(0))
    assert len(report.cpu.load) == 3
    assert 0 <= report.cpu.utilisation_percent <= 100
    assert report.memory is not None
    assert 0 < report.memory.available_bytes <= report.memory.total_bytes
    assert report.disk is not None
    assert report.disk.used_bytes + report.disk.free_bytes <= report.disk.total_bytes
    assert report.process is not None
    assert report.process.memory_bytes > 2**24
    assert report.gpus == []
    assert report.models is not None
    assert report.models[0].model_dump() == {
        "model_id": "tiny", "state": "ready", "device": "cpu", "memory_bytes": 2**20,
        "in_flight": 3, "waiting": 1, "tokens_per_s": 41.5,
    }  # fmt: skip
    assert report.tenants is not None
    assert report.tenants[0].last_hour.model_dump() == {"requests": 4, "prompt_tokens": 50, "completion_tokens": 60}


async def test_utilisation_is_that_since_the_last_question(metrics: SystemMetrics) -> None:
    await metrics.report()
    end_s = time.process_time() + 0.4
    while time.process_time() < end_s:
        pass
    report = await metrics.report()
    assert report.cpu is not None
    assert report.cpu.utilisation_percent > 50 / (os.cpu_count() or 1)


async def test_all_cards_of_the_machine_are_told_with_what_they_know(
    metrics: SystemMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = FakeCard("Tesla K80", "GPU-2", milliwatts=None)
    install(monkeypatch, [FakeCard(gpu_percent=42), old])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # Ray gives the hub's own process no card
    gpus = (await metrics.report()).gpus
    assert gpus is not None
    assert [card.name for card in gpus] == ["NVIDIA GeForce RTX 4060 Ti", "Tesla K80"]
    assert (gpus[0].utilisation_percent, gpus[0].temperature_celsius, gpus[0].power_watts) == (42, 51, 90.5)
    assert (gpus[0].memory_used_bytes, gpus[0].memory_total_bytes) == (2**30, 16 * 2**30)
    assert gpus[1].power_watts is None


async def test_slow_or_missing_parts_are_left_out_and_said(
    metrics: SystemMetrics, lifecycle: Lifecycle, recent: Recent, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle.delay_s, recent.error = 30.0, StorageUnavailableError("The database does not answer.")
    monkeypatch.setattr(machine, "read_disk", lambda _: 1 / 0)
    slow = SystemMetrics(lifecycle, recent, Path("/"))  # type: ignore[arg-type]  # fakes of what it asks
    began_s = time.monotonic()
    report = await slow.report()
    assert time.monotonic() - began_s < 0.5
    assert report.models is report.tenants is report.disk is None
    assert report.missing == {
        "models": "no answer within 0.4 s",
        "tenants": "The database does not answer.",
        "disk": "it could not be read; the log says why",
    }
    assert report.cpu is not None
    await asyncio.gather(*(slow.report() for _ in range(5)))
    assert lifecycle.asked == 1  # a part that hangs is not asked again
    for task in slow._asking.values():
        task.cancel()


async def test_a_part_that_answers_too_late_is_asked_again(
    metrics: SystemMetrics, lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "PART_TIMEOUT_S", 0.05)
    lifecycle.delay_s, lifecycle.error = 0.08, ModelUnavailableError("The model manager is starting.")
    assert "models" in (await metrics.report()).missing
    await asyncio.sleep(0.1)
    lifecycle.delay_s, lifecycle.error = 0.0, None
    assert (await metrics.report()).models is not None


async def test_the_loop_goes_on_while_the_machine_is_read(metrics: SystemMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_cards", lambda: time.sleep(0.2) or [])
    metrics._parts["gpus"] = lambda: asyncio.to_thread(machine.read_cards)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.005)

    counting = asyncio.create_task(count())
    await metrics.report()
    counting.cancel()
    assert turns > 10


async def test_tenants_of_the_last_minute_and_hour_are_read_from_their_rows(database: Database) -> None:
    now = datetime.now(UTC)
    run = uuid.uuid4().hex[:8]  # other tests leave rows, too
    busy, quiet, gone = f"busy-{run}", f"quiet-{run}", f"gone-{run}"
    ages_s = {busy: (1, 30, 300), quiet: (3000,), gone: (4000,)}
    rows = [
        row_of(
            RequestRecord(principal=Principal(tenant_id=tenant), prompt_tokens=10, completion_tokens=5),
            now - timedelta(seconds=age_s),
        )
        for tenant, ages in ages_s.items()
        for age_s in ages
    ]
    await UsageTable(database).insert(rows)
    table = RecentUsageTable(database)
    found = await table.read(minute=now - timedelta(minutes=1), hour=now - timedelta(hours=1), most=10_000)
    own = [usage for usage in found if usage.tenant_id.endswith(run)]
    assert own == [RecentUsage(busy, 2, 20, 10, 3, 30, 15), RecentUsage(quiet, 0, 0, 0, 1, 10, 5)]
    assert len(await table.read(minute=now, hour=now - timedelta(hours=1), most=1)) == 1


async def test_tokens_of_answers_from_the_cache_are_left_out_as_in_analytics(database: Database, tenant: str) -> None:
    now = datetime.now(UTC)
    made = [row(tenant, now, request_id=cache, cache=cache, prompt_tokens=10, completion_tokens=5) for cache in ("off", "hit")]
    await UsageTable(database).insert(made)
    recent = await RecentUsageTable(database).read(minute=now - timedelta(minutes=1), hour=now - timedelta(hours=1), most=10_000)
    [found] = [usage for usage in recent if usage.tenant_id == tenant]
    assert found == RecentUsage(tenant, 2, 10, 5, 2, 10, 5)
    query = validate(UsageQuery, {"tenant": tenant, "to": (now + timedelta(minutes=1)).isoformat()})
    total = (await UsageAnalytics(UsageFiguresTable(database)).analytics(Principal(), query)).total
    assert (total.requests, total.prompt_tokens, total.completion_tokens) == (2, 10, 5)


async def test_the_route_answers_with_the_report(metrics: SystemMetrics) -> None:
    parts = Parts()
    services = parts.services()
    object.__setattr__(services, "system", metrics)
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get(DOCUMENTED_PATH)
    assert answer.status_code == 200
    assert answer.json()["object"] == "system.metrics"
    assert answer.json()["missing"] == {}
