import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from typer.testing import CliRunner

from aihub.cli.main import database_commands
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ConfigurationError, StorageUnavailableError
from aihub.core.migrate import current, known_revisions, upgrade
from tests.external_servers import ExternalPostgres, free_port

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def empty_database(external_postgres: ExternalPostgres) -> Iterator[str]:
    name = f"empty_{secrets.token_hex(6)}"
    with psycopg.connect(external_postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield external_postgres.url.removesuffix("postgres") + name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def shape(dsn: str) -> list[tuple[str, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns "
            "WHERE table_schema = current_schema() ORDER BY 1, ordinal_position"
        ).fetchall()


def test_revisions_are_numbered_without_gaps() -> None:
    assert known_revisions() == [f"{number:04}" for number in range(len(known_revisions()), 0, -1)]


@pytest.mark.parametrize("start", [None, *sorted(known_revisions())])
def test_every_earlier_state_reaches_the_same_schema(empty_database: str, embedded_stores: StoreUrls, start: str | None) -> None:
    if start is not None:
        assert upgrade(empty_database, start) == start
    head = known_revisions()[0]
    assert upgrade(empty_database) == head
    assert current(empty_database) == (head, head)
    assert shape(empty_database) == shape(embedded_stores.database_url)


def test_every_table_carries_the_tenant(embedded_stores: StoreUrls) -> None:
    columns: dict[str, set[str]] = {}
    for table, column, *_ in shape(embedded_stores.database_url):
        columns.setdefault(table, set()).add(column)
    # The list of tenants itself, and what is true of the whole database.
    for name in ("alembic_version", "tenants", "first_api_key"):
        del columns[name]
    assert len(columns) >= 8
    assert [table for table, names in columns.items() if "tenant_id" not in names] == []


def test_processes_that_migrate_at_once_do_not_disturb_each_other(empty_database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(upgrade, [empty_database] * 4)) == {known_revisions()[0]}


def test_newer_schema_is_refused_and_left_alone(empty_database: str) -> None:
    upgrade(empty_database)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match="9999"):
        upgrade(empty_database)
    assert current(empty_database)[0] == "9999"


def test_absent_server_is_unavailable() -> None:
    with pytest.raises(StorageUnavailableError):
        upgrade(f"postgresql://x@127.0.0.1:{free_port()}/x")


def test_alembic_command_migrates_the_configured_database(empty_database: str, tmp_path: Path) -> None:
    environment = {"DATABASE_URL": empty_database, "AIHUB_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert current(empty_database)[0] == known_revisions()[0]


def test_aihub_db_commands_tell_the_state_and_change_it(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database)

    def run(command: str) -> tuple[int, str]:
        result = CliRunner().invoke(database_commands, [command])
        return result.exit_code, result.output.strip()

    head = known_revisions()[0]
    assert run("current") == (0, f"database: empty, this version: {head}")
    assert run("check") == (1, "The database lacks tables. Run `aihub db upgrade`.")
    assert run("upgrade") == (0, f"The database is at revision {head}.")
    assert run("check") == (0, f"ok: revision {head}")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://x@127.0.0.1:{free_port()}/x")
    code, output = run("upgrade")
    assert code == 1
    assert output.startswith("PostgreSQL does not answer")
    assert "\n" not in output


def test_recordings_can_be_taken_out_of_the_schema_again(empty_database: str, tmp_path: Path) -> None:
    upgrade(empty_database, "0008")
    before = shape(empty_database)
    upgrade(empty_database, "0009")
    assert len(shape(empty_database)) == len(before) + 2
    environment = {"DATABASE_URL": empty_database, "AIHUB_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "alembic", "downgrade", "0008"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert shape(empty_database) == before


def test_documents_from_before_recordings_are_none(empty_database: str) -> None:
    upgrade(empty_database, "0008")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO files (tenant_id, id, filename, purpose, size_bytes, sha256, status) "
            "VALUES ('t', 'file-1', 'a.txt', 'assistants', 1, '', 'processed')"
        )
        upgrade(empty_database)
        assert connection.execute("SELECT is_media FROM files").fetchall() == [(False,)]
