import asyncio
import csv
import io
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from aihub.core.errors import InvalidRequestError, OverloadedError, PermissionDeniedError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.usage import analytics as analytics_module
from aihub.usage.analytics import UsageAnalytics
from aihub.usage.rows import UsageRow
from aihub.usage.schemas import Analytics, Percentiles, UsageFilters, UsageQuery
from aihub.usage.tables import usage_figures
from aihub.usage.tables.usage_figures import Selection, UsageFiguresTable
from aihub.usage.tables.usage_records import UsageTable
from tests.unit.usage.usage_parts import row

DAY = datetime(2026, 3, 1, tzinfo=UTC)
ADMIN = Principal()


@pytest.fixture
def analytics(database: Database) -> UsageAnalytics:
    return UsageAnalytics(UsageFiguresTable(database))


async def ask(analytics: UsageAnalytics, tenant: str, *group_by: str, **filters: Any) -> Analytics:
    values = {"from": "2026-03-01", "to": "2026-03-31", "group_by": list(group_by), "tenant": tenant}
    return await analytics.analytics(ADMIN, validate(UsageQuery, values | filters))


async def exported(analytics: UsageAnalytics, principal: Principal, **filters: Any) -> list[dict[str, str]]:
    values = {"from": "2026-03-01", "to": "2026-03-31"} | filters
    text = "".join([piece async for piece in analytics.export(principal, validate(UsageFilters, values))])
    return list(csv.DictReader(io.StringIO(text)))


def made_rows(tenant: str, count: int) -> list[UsageRow]:
    """Rows of all kinds over thirty days, the same each time."""
    chance = random.Random(7)  # noqa: S311  # figures to add up
    rows = []
    for number in range(count):
        is_streamed = chance.random() < 0.5
        status = chance.choices([200, 404, 429, 499, 500, 503], [80, 5, 5, 4, 4, 2])[0]
        rows.append(
            row(
                tenant,
                DAY + timedelta(seconds=chance.randrange(30 * 86_400), microseconds=number),
                request_id=f"req_{number}",
                key_id=chance.choice(["khoá-một", "khoá-hai", None]),
                model=chance.choice(["mô-hình-nhỏ", "mô-hình-lớn@v2", "openai/gpt-4o-mini"]),
                task=chance.choice(["chat", "embeddings"]),
                streamed=is_streamed,
                prompt_tokens=chance.randrange(500),
                completion_tokens=chance.randrange(200),
                queued_ms=chance.random() * 100,
                waited_ms=chance.random() * 800,
                first_token_ms=chance.random() * 300 if is_streamed else None,
                total_ms=chance.expovariate(1 / 900),
                status=status,
                error_code="stream_broken" if status == 200 and chance.random() < 0.02 else "",
                cache=chance.choice(["off", "miss", "hit"]),
                cpu_s=chance.random() if chance.random() < 0.9 else None,
            )
        )
    return rows


def percentiles(values: list[float]) -> Percentiles:
    if not values:
        return Percentiles(p50=None, p95=None, p99=None)
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return Percentiles(p50=p50, p95=p95, p99=p99)


def expected(rows: list[UsageRow]) -> dict[str, Any]:
    """The same figures, reckoned by hand."""
    failed = [r for r in rows if r.status >= 500 or (r.status < 400 and r.error_code)]
    hits = [r for r in rows if r.cache == "hit"]
    made = [r for r in rows if r.cache != "hit"]
    lookups = [r for r in rows if r.cache != "off"]
    costs = [r.cpu_s for r in rows if r.cpu_s is not None]
    return {
        "requests": len(rows),
        "streamed": sum(r.streamed for r in rows),
        "failed": len(failed),
        "refused": sum(r.status in {404, 429} for r in rows),
        "cancelled": sum(r.status == 499 for r in rows),
        "error_rate": len(failed) / len(rows),
        "prompt_tokens": sum(r.prompt_tokens for r in made),
        "completion_tokens": sum(r.completion_tokens for r in made),
        "cached_tokens": sum(r.prompt_tokens + r.completion_tokens for r in hits),
        "cache_hits": len(hits),
        "cache_hit_rate": len(hits) / len(lookups) if lookups else None,
        "total_ms": percentiles([r.total_ms for r in rows]).model_dump(),
        "first_token_ms": percentiles([r.first_token_ms for r in rows if r.first_token_ms is not None]).model_dump(),
        "queued_ms": percentiles([r.queued_ms for r in rows]).model_dump(),
        "queued_s": sum(r.queued_ms for r in rows) / 1000,
        "waited_s": sum(r.waited_ms for r in rows) / 1000,
        "total_s": sum(r.total_ms for r in rows) / 1000,
        "cpu_s": sum(costs) if costs else None,
        "gpu_s": None,
        "joules": None,
    }


def assert_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == (pytest.approx(value) if value is not None else None), name


async def test_figures_of_each_group_and_of_all_are_those_reckoned_by_hand(
    database: Database, tenant: str, analytics: UsageAnalytics
) -> None:
    rows = made_rows(tenant, 1500)
    await UsageTable(database).insert(rows)
    keys: dict[str, Callable[[UsageRow], object]] = {
        "day": lambda r: r.at.date().isoformat(),
        "model": lambda r: r.model,
        "key": lambda r: r.key_id,
        "status": lambda r: r.status,
        "cache": lambda r: r.cache,
    }
    for names in [(), ("day",), ("model",), ("key", "model"), ("status",), ("cache", "day", "model")]:
        answer = await ask(analytics, tenant, *names)
        assert_equal(answer.total.model_dump(), expected(rows))
        groups: dict[tuple[object, ...], list[UsageRow]] = {}
        for item in rows:
            groups.setdefault(tuple(keys[name](item) for name in names), []).append(item)
        found = {tuple(group.group[name] for name in names): group for group in answer.data}
        assert found.keys() == (groups.keys() if names else set())
        for key, group in found.items():
            assert_equal(group.model_dump(exclude={"group"}), expected(groups[key]))


async def test_days_come_in_their_order_and_models_by_size(database: Database, tenant: str, analytics: UsageAnalytics) -> None:
    rows = [row(tenant, DAY + timedelta(days=day), model="nhỏ", request_id=f"a{day}") for day in (2, 0, 1)]
    rows += [row(tenant, DAY + timedelta(days=1, seconds=number), model="lớn", request_id=f"b{number}") for number in range(5)]
    await UsageTable(database).insert(rows)
    by_day = await ask(analytics, tenant, "day")
    assert [group.group["day"] for group in by_day.data] == ["2026-03-01", "2026-03-02", "2026-03-03"]
    by_model = await ask(analytics, tenant, "model")
    assert [(group.group["model"], group.requests) for group in by_model.data] == [("lớn", 5), ("nhỏ", 3)]


async def test_period_takes_its_first_moment_and_not_its_last_and_a_day_to_its_end(
    database: Database, tenant: str, analytics: UsageAnalytics
) -> None:
    moments = [DAY - timedelta(microseconds=1), DAY, DAY + timedelta(hours=23, minutes=59), DAY + timedelta(days=1)]
    await UsageTable(database).insert([row(tenant, at, request_id=str(at)) for at in moments])
    assert (await ask(analytics, tenant, to="2026-03-01")).total.requests == 2
    assert (await ask(analytics, tenant, to="2026-03-01T23:59:00Z")).total.requests == 1
    # Midnight in Hà Nội is 17:00 UTC of the day before.
    vietnamese = await ask(analytics, tenant, **{"from": "2026-03-01T00:00:00+07:00", "to": "2026-03-01T07:00:00+07:00"})
    assert vietnamese.total.requests == 1


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"model": "mô-hình-nhỏ"}, 2),
        ({"model": "mô-hình-nhỏ", "status": "500"}, 1),
        ({"status": "5xx"}, 2),
        ({"status": "2xx"}, 1),
        ({"key": "khoá"}, 3),
        ({"task": "embeddings"}, 1),
        ({"route": "POST /v1/chat/completions", "cache": "off", "user": "usr_1", "provider": "local"}, 3),
        ({"model": "%"}, 0),
        ({"model": "' OR '1'='1"}, 0),
    ],
)
async def test_filters_must_all_hold(
    database: Database, tenant: str, analytics: UsageAnalytics, filters: dict[str, str], count: int
) -> None:
    await UsageTable(database).insert(
        [
            row(tenant, DAY, request_id="1", model="mô-hình-nhỏ", key_id="khoá"),
            row(tenant, DAY, request_id="2", model="mô-hình-nhỏ", status=500, key_id="khoá"),
            row(tenant, DAY, request_id="3", model="mô-hình-lớn", status=503, key_id="khoá", task="embeddings"),
        ]
    )
    assert (await ask(analytics, tenant, **filters)).total.requests == count


async def test_period_without_a_request_has_zeros_and_nulls(tenant: str, analytics: UsageAnalytics, database: Database) -> None:
    await UsageTable(database).insert([row(tenant, DAY - timedelta(days=1))])
    answer = await ask(analytics, tenant, "model")
    assert answer.data == []
    assert (answer.total.requests, answer.total.error_rate, answer.total.cache_hit_rate) == (0, 0.0, None)
    assert answer.total.total_ms == Percentiles(p50=None, p95=None, p99=None)


async def test_user_sees_the_own_tenant_alone_and_an_administrator_all(
    database: Database, tenant: str, analytics: UsageAnalytics
) -> None:
    own, other = f"{tenant}-a", f"{tenant}-b"
    await UsageTable(database).insert([row(own, DAY), row(other, DAY), row(other, DAY, request_id="zwei")])
    user = Principal(tenant_id=own, role="user")
    values = {"from": "2026-03-01", "to": "2026-03-01", "group_by": ["tenant"]}
    seen = await analytics.analytics(user, validate(UsageQuery, values))
    assert [(group.group["tenant"], group.requests) for group in seen.data] == [(own, 1)]
    assert [line["tenant"] for line in await exported(analytics, user)] == [own]
    with pytest.raises(PermissionDeniedError) as refused:
        await analytics.analytics(user, validate(UsageQuery, values | {"tenant": other}))
    assert (refused.value.code, refused.value.param) == ("tenant_not_allowed", "tenant")
    with pytest.raises(PermissionDeniedError):
        await exported(analytics, user, tenant=other)
    everything = await analytics.analytics(ADMIN, validate(UsageQuery, values))
    counts = {group.group["tenant"]: group.requests for group in everything.data}
    assert (counts[own], counts[other]) == (1, 2)
    lines = await exported(analytics, ADMIN)
    assert [line["tenant"] for line in lines if line["tenant"] in {own, other}] == [own, other, other]
    async with database.connection() as connection:
        await connection.execute("DELETE FROM usage_records WHERE tenant_id = ANY(%s)", ([own, other],))


async def test_too_many_groups_are_refused_with_what_to_do(
    database: Database, tenant: str, analytics: UsageAnalytics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytics_module, "MAX_GROUPS", 3)
    rows = [row(tenant, DAY, request_id=str(number), model=f"mô-hình-{number}") for number in range(4)]
    await UsageTable(database).insert(rows[:3])
    assert len((await ask(analytics, tenant, "model")).data) == 3
    await UsageTable(database).insert(rows)
    with pytest.raises(InvalidRequestError) as refused:
        await ask(analytics, tenant, "model")
    assert refused.value.code == "too_many_groups"


async def test_export_gives_each_row_once_over_many_pages_and_tenants(
    database: Database, tenant: str, analytics: UsageAnalytics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_figures, "PAGE_ROWS", 7)
    tenants = [f"{tenant}-{number}" for number in range(3)]
    # Several rows at one moment: the id goes on where the time does not.
    rows = [
        row(name, DAY + timedelta(seconds=number // 4), request_id=f"req_{number:03}") for name in tenants for number in range(30)
    ]
    await UsageTable(database).insert(rows)
    lines = await exported(analytics, ADMIN)
    ours = [(line["tenant"], line["request_id"]) for line in lines if line["tenant"] in tenants]
    assert ours == [(item.tenant_id, item.request_id) for item in rows]
    async with database.connection() as connection:
        await connection.execute("DELETE FROM usage_records WHERE tenant_id = ANY(%s)", (tenants,))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://a","b")'])
async def test_cell_that_a_spreadsheet_would_run_is_text(
    database: Database, tenant: str, analytics: UsageAnalytics, name: str
) -> None:
    await UsageTable(database).insert([row(tenant, DAY, model=name, key_id=name, error_code='mã "lỗi", và\ndòng')])
    [line] = await exported(analytics, ADMIN, tenant=tenant)
    assert line["model"] == f"'{name}"
    assert line["key"] == f"'{name}"
    assert {"tenant", "key", "user", "model", "provider", "route", "task", "status", "cache"} <= line.keys()  # as the filters
    assert line["error_code"] == 'mã "lỗi", và\ndòng'
    assert (line["at"], line["streamed"], line["cpu_s"]) == ("2026-03-01T00:00:00.000000Z", "false", "")


async def test_figures_that_take_too_long_are_refused_as_such(
    database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_figures, "QUERY_TIMEOUT_S", 0.001)
    await UsageTable(database).insert(made_rows(tenant, 2000))
    with pytest.raises(Exception, match="Ask for fewer days") as refused:
        await UsageFiguresTable(database).figures(Selection(DAY, DAY + timedelta(days=40), tenant), ["model", "day"], most=100)
    assert getattr(refused.value, "code", None) == "analytics_too_slow"


async def test_more_at_once_than_places_wait_and_are_refused_in_time(
    tenant: str, analytics: UsageAnalytics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytics_module, "_PLACE_TIMEOUT_S", 0.1)
    held = asyncio.Event()

    async def figures(*_: object, **__: object) -> list[dict[str, Any]]:
        await held.wait()
        raise InvalidRequestError("ended")

    monkeypatch.setattr(analytics._table, "figures", figures)
    first = [asyncio.create_task(ask(analytics, tenant)) for _ in range(analytics_module.MAX_AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await ask(analytics, tenant)
    held.set()
    assert [type(error) for error in await asyncio.gather(*first, return_exceptions=True)] == [InvalidRequestError] * 2
    with pytest.raises(InvalidRequestError, match="ended"):
        await ask(analytics, tenant)
