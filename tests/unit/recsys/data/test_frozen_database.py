"""Trainings whose PostgreSQL stops answering without closing a connection, as a frozen machine or a lost network does."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aihub.core import postgres_connection as limited_connection
from aihub.recsys.data import connections
from aihub.recsys.data.connections import ShopUnavailableError, connect_shop, translated_errors
from aihub.recsys.data.mapping import load_mapping
from aihub.recsys.tables import session as recsys_session
from aihub.recsys.tables.session import ResultNotWrittenError, TrainingSession
from aihub.recsys.training import TrainingPlace, TrainingResult, train
from tests.external_servers import ExternalPostgres
from tests.unit.recsys.model_parts import SmallTrainer
from tests.unit.recsys.shop_parts import MONDAY_S, Shop


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_connection, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(limited_connection, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(connections, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(recsys_session, "STATEMENT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(recsys_session, "_FIRST_PAUSE_S", 0.1)


class Work:
    """One store and its training on a server that can be frozen."""

    def __init__(self, server: ExternalPostgres, tenant: str, home: Path) -> None:
        self.server = server
        self.shop = Shop(server.url, tenant)
        self.shop.catalogue()
        self.shop.customers(7)
        self.shop.order(7, MONDAY_S, 11, 21, 31)
        self.place = TrainingPlace(server.url, server.url, load_mapping(), home)
        self.trainer = SmallTrainer()

    def freeze(self, *_: Any) -> None:
        self.server.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.server.send(signal.SIGCONT)

    def freeze_for(self, seconds: float) -> Callable[..., None]:
        def freeze(*_: Any) -> None:
            self.freeze()
            threading.Timer(seconds, self.thaw).start()

        return freeze

    def train(self, **options: Any) -> TrainingResult:
        return train(self.place, self.trainer, 1, "recommendation", {"dim": 50}, tenant=self.shop.tenant, **options)

    def row(self) -> tuple[Any, ...]:
        with psycopg.connect(self.server.url) as connection:
            found = connection.execute(
                "SELECT id, status, version FROM ai_training_log WHERE tenant_id = %s", (self.shop.tenant,)
            ).fetchone()
        assert found is not None
        return found


@pytest.fixture
def work(external_postgres: ExternalPostgres, tmp_path: Path) -> Iterator[Work]:
    made = Work(external_postgres, f"frozen-{tmp_path.name}", tmp_path)
    yield made
    made.thaw()
    made.shop.remove()


def test_a_training_that_ends_while_the_database_is_frozen_is_written_down_when_it_thaws(work: Work) -> None:
    work.trainer.during = work.freeze_for(1.5)
    result = work.train()
    assert result.served
    assert work.row()[1:] == ("succeeded", result.version)


def test_a_result_that_could_not_be_written_is_no_failure_and_is_written_by_the_next_start(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recsys_session, "FINAL_PATIENCE_S", 0.5)
    work.trainer.during = work.freeze
    started_s = time.monotonic()
    with pytest.raises(ResultNotWrittenError, match="version 000001"):
        work.train()
    assert time.monotonic() - started_s < 15
    work.thaw()
    run_id, status, version = work.row()
    assert (status, version) == ("running", None)

    def learn_again(*_: Any) -> None:
        pytest.fail("the version is there already")

    work.trainer.during = learn_again
    assert work.train(run_id=run_id).version == "000001"
    assert work.row() == (run_id, "succeeded", "000001")


async def test_a_failure_is_written_down_after_the_thaw_too(work: Work) -> None:
    def fail(*_: Any) -> None:
        work.freeze_for(1.0)()
        raise KeyError("a bug")

    work.trainer.during = fail
    with pytest.raises(Exception, match="failed inside"):
        await asyncio.to_thread(work.train)
    assert work.row()[1] == "failed"


def test_heartbeats_go_on_after_the_thaw(work: Work) -> None:
    session = TrainingSession(
        work.server.url, tenant=work.shop.tenant, store_id=1, model_type="recommendation", run_id=None, heartbeat_s=0.05
    ).open({})
    try:
        work.freeze()
        time.sleep(1.0)
        work.thaw()
        session.report("after the thaw", 0.5)
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            with psycopg.connect(work.server.url) as connection:
                found = connection.execute("SELECT step FROM ai_training_log WHERE id = %s", (session.run_id,)).fetchone()
            if found == ("after the thaw",):
                break
            time.sleep(0.05)
        assert found == ("after the thaw",)
        assert not session.is_cancelled()
    finally:
        session.close()


def test_reading_a_frozen_shop_ends(work: Work) -> None:
    with pytest.raises(ShopUnavailableError), translated_errors(), connect_shop(work.server.url, statement_timeout_s=0.2) as shop:
        work.freeze()
        shop.execute("SELECT 1")
