from collections.abc import Iterator

import psycopg
import pytest

from aihub.accounts.first_key import has_keys, require_keys
from aihub.accounts.tables.users import UserTable
from aihub.core.errors import ConfigurationError, StorageUnavailableError
from tests.external_servers import ExternalPostgres, free_port
from tests.unit.accounts.account_parts import CountedDatabase, make_key

ELSEWHERE = ["0.0.0.0", "::", "192.168.1.5", "box.local", ""]  # noqa: S104  # nothing listens
HERE = ["127.0.0.1", "127.0.0.2", "localhost", "::1"]


@pytest.mark.parametrize("host", ELSEWHERE)
def test_hub_without_keys_may_not_listen_to_other_machines(empty_dsn: str, host: str) -> None:
    with pytest.raises(ConfigurationError, match="aihub keys create --name"):
        require_keys(empty_dsn, host)


@pytest.mark.parametrize("host", HERE)
def test_hub_without_keys_may_listen_to_its_own_machine_and_asks_nothing(host: str) -> None:
    require_keys(f"postgresql://x@127.0.0.1:{free_port()}/x", host)


@pytest.mark.parametrize("host", [*ELSEWHERE, *HERE])
async def test_hub_with_a_key_may_listen_anywhere(accounts_database: CountedDatabase, empty_dsn: str, host: str) -> None:
    await make_key(accounts_database)
    require_keys(empty_dsn, host)


async def test_key_that_was_deleted_counts_as_made(accounts_database: CountedDatabase, empty_dsn: str) -> None:
    assert has_keys(empty_dsn) is False
    await make_key(accounts_database)
    await UserTable(accounts_database).delete("default", "admin")
    assert has_keys(empty_dsn) is True


@pytest.fixture
def bare_dsn(external_postgres: ExternalPostgres) -> Iterator[str]:
    """A database without tables."""
    with psycopg.connect(external_postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS bare_accounts WITH (FORCE)")
        connection.execute("CREATE DATABASE bare_accounts")
    yield external_postgres.url.removesuffix("postgres") + "bare_accounts"


def test_fresh_database_has_no_keys(bare_dsn: str) -> None:
    assert has_keys(bare_dsn) is False


def test_absent_database_is_told(empty_dsn: str) -> None:
    with pytest.raises(StorageUnavailableError):
        require_keys(f"postgresql://x@127.0.0.1:{free_port()}/x", "0.0.0.0")  # noqa: S104  # nothing listens
