"""`aihub usage` against the API on a real socket and a real database."""

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner, Result

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.fake import FakeAuthenticator
from aihub.cli.main import app as commands
from aihub.core.embedded.stores import StoreUrls
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.usage.analytics import UsageAnalytics
from aihub.usage.schemas import Analytics, UsageFilters, UsageQuery
from aihub.usage.tables.usage_figures import UsageFiguresTable
from aihub.usage.tables.usage_records import UsageTable
from tests.unit.conftest import LiveServer
from tests.unit.http.services import Parts
from tests.unit.usage.usage_parts import row

KEY = ApiKey.generate()


class OwnLoopAnalytics:
    """Opens the database in whichever loop the server runs."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def analytics(self, principal: Principal, query: UsageQuery) -> Analytics:
        database = Database(self._dsn)
        await database.open()
        try:
            return await UsageAnalytics(UsageFiguresTable(database)).analytics(principal, query)
        finally:
            await database.close()

    async def export(self, principal: Principal, filters: UsageFilters) -> AsyncGenerator[str, None]:
        database = Database(self._dsn)
        await database.open()
        try:
            async for piece in UsageAnalytics(UsageFiguresTable(database)).export(principal, filters):
                yield piece
        finally:
            await database.close()


@pytest.fixture
def live(embedded_stores: StoreUrls, tenant: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    caller = Principal(tenant_id=tenant, role="user", user_id="usr_1", key_id=KEY.key_id)
    server = LiveServer(
        Parts(authenticator=FakeAuthenticator({KEY.text: caller}), analytics=OwnLoopAnalytics(embedded_stores.database_url))
    )
    server.start()
    monkeypatch.setenv("AIHUB_URL", server.url)
    monkeypatch.setenv("AIHUB_API_KEY", KEY.text)
    yield server
    server.stop()


@pytest.fixture
def rows(embedded_stores: StoreUrls, tenant: str) -> None:
    async def insert() -> None:
        database = Database(embedded_stores.database_url)
        await database.open()
        now = datetime.now(UTC)
        made = [row(tenant, now, request_id=str(number), prompt_tokens=1000, total_ms=250.0) for number in range(2)]
        made.append(row(tenant, now, model="=nguy hiểm\x1b[31m", status=500))
        made.append(row(tenant, now - timedelta(days=9)))
        await UsageTable(database).insert(made)
        await database.close()

    asyncio.run(insert())


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["usage", *arguments])


@pytest.mark.usefixtures("live", "rows")
def test_table_shows_each_model_of_the_last_days_and_the_total() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    head, *lines = [line.split() for line in result.stdout.splitlines()]
    assert head[:3] == ["model", "requests", "failed"]
    assert lines[0][:4] == ["mô-hình", "2", "0", "250.0"]
    assert "2,000" in lines[0]
    assert lines[1][:3] == ["=nguy", "hiểm?[31m", "1"]
    assert lines[-1][:3] == ["total", "3", "1"]


@pytest.mark.usefixtures("live", "rows")
def test_csv_has_a_line_for_each_group_and_runs_nothing() -> None:
    result = run("--by", "day", "--by", "model", "--csv", "--days", "30")
    assert result.exit_code == 0, result.output
    lines = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(line["model"], line["requests"]) for line in lines] == [
        ("mô-hình", "1"),
        ("mô-hình", "2"),
        ("'=nguy hiểm", "1"),
    ]
    assert lines[0]["day"] < lines[1]["day"] == lines[2]["day"]


@pytest.mark.usefixtures("live", "rows")
def test_groups_may_be_written_with_commas() -> None:
    written = run("--by", "day, model", "--by", "status", "--csv", "--days", "30")
    assert written.exit_code == 0, written.output
    assert written.stdout == run("--by", "day", "--by", "model", "--by", "status", "--csv", "--days", "30").stdout
    assert written.stdout.startswith("day,model,status,requests,")


@pytest.mark.usefixtures("live")
def test_wrong_use_and_refusals_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (unknown := run("--by", "month")).exit_code == 2
    assert "none of day, model" in " ".join(unknown.output.split())
    assert (hidden := run("--by", "day,month")).exit_code == 2
    assert "'month' is none of day, model" in " ".join(hidden.output.split())
    assert (other := run("--tenant", "người-khác")).exit_code == 1
    assert other.output.endswith(" Only administrators see other tenants. Leave `tenant` out.\n")
    assert other.output.count("\n") == 1
    monkeypatch.setenv("AIHUB_API_KEY", ApiKey.generate().text)
    assert (stranger := run()).exit_code == 1
    assert "key" in stranger.output


def test_hub_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_URL", "http://127.0.0.1:9")
    result = run()
    assert result.exit_code == 1
    assert result.output.startswith("aihub: No hub answers at http://127.0.0.1:9.")
