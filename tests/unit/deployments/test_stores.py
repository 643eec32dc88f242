"""Who runs the embedded servers: the process that starts Ray where `aihub serve` does, an actor under a bare `serve run`."""

from pathlib import Path

import psutil
import psycopg
import pytest
from pydantic import SecretStr

from aihub.core.embedded.stores import StoreUrls, running_urls
from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings
from deployments import stores
from deployments.stores import KEPT_VARIABLE, connect_stores, keep_stores
from tests.external_servers import wait_until

OURS = StoreUrls("postgresql://ours", "unix://ours")
THEIRS = SecretStr("postgresql://theirs")


def answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(autouse=True)
def nobody_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT_VARIABLE, "")  # put back after the test, whatever it sets
    monkeypatch.delenv(KEPT_VARIABLE)


def test_servers_that_are_kept_are_taken_without_an_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT_VARIABLE, "1")
    monkeypatch.setattr(stores, "running_urls", lambda home: OURS)
    settings = connect_stores(Settings(database_url=None, redis_url=None))
    assert settings.database_url is not None and settings.redis_url is not None
    assert (settings.database_url.get_secret_value(), settings.redis_url.get_secret_value()) == (
        "postgresql://ours",
        "unix://ours",
    )


def test_servers_that_another_command_runs_for_a_moment_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "running_urls", lambda home: OURS)
    monkeypatch.setattr(stores, "_start_by_actor", lambda home: StoreUrls("postgresql://actor", "unix://actor"))
    settings = connect_stores(Settings(database_url=None, redis_url=None))
    assert settings.database_url == SecretStr("postgresql://actor")


def test_a_configured_store_is_kept_beside_an_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT_VARIABLE, "1")
    monkeypatch.setattr(stores, "running_urls", lambda home: OURS)
    settings = connect_stores(Settings(database_url=THEIRS, redis_url=None))
    assert settings.database_url == THEIRS
    assert settings.redis_url == SecretStr("unix://ours")


def test_nothing_is_started_when_both_stores_are_configured(tmp_path: Path) -> None:
    assert keep_stores(Settings(home=tmp_path, database_url=THEIRS, redis_url=SecretStr("redis://theirs"))) is None
    assert list(tmp_path.iterdir()) == []


def test_kept_servers_answer_come_back_with_a_killed_supervisor_and_end_when_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "CHECK_PERIOD_S", 0.1)
    settings = Settings(home=tmp_path, database_url=None, redis_url=None)
    keeper = keep_stores(settings)
    assert keeper is not None
    try:
        connected = connect_stores(settings)
        assert connected.database_url is not None
        url = connected.database_url.get_secret_value()
        psycopg.connect(url).close()
        with pytest.raises(ConfigurationError, match="running already"):
            keep_stores(settings)
        [supervisor] = [child for child in psutil.Process().children() if str(tmp_path) in child.cmdline()]
        supervisor.kill()
        wait_until(lambda: not answers(url), 30, "the end of the servers")
        wait_until(lambda: answers(url), 60, "an answer at the same address")
    finally:
        keeper.stop()
    assert running_urls(tmp_path) is None
