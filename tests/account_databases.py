"""A database of its own for accounts: whether a key was ever made is one fact of the whole database. A Redis to be killed."""

import secrets
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from aihub.core.migrate import upgrade
from tests.external_servers import ExternalPostgres, ExternalRedis
from tests.unit.accounts.account_parts import CountedDatabase


@pytest.fixture(scope="session")
def accounts_dsn(external_postgres: ExternalPostgres) -> str:
    """A migrated database; it goes with its server."""
    name = f"accounts_{secrets.token_hex(4)}"
    with psycopg.connect(external_postgres.url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    dsn = make_conninfo(external_postgres.url, dbname=name)
    upgrade(dsn)
    return dsn


@pytest.fixture
def empty_dsn(accounts_dsn: str) -> str:
    """Where no key was ever made."""
    with psycopg.connect(accounts_dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE first_api_key, api_keys, users, tenants")
        connection.execute("INSERT INTO tenants (id, name) VALUES ('default', 'default')")
    return accounts_dsn


@pytest.fixture
async def accounts_database(empty_dsn: str) -> AsyncIterator[CountedDatabase]:
    database = CountedDatabase(empty_dsn)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def redis_server() -> Iterator[ExternalRedis]:
    server = ExternalRedis()
    try:
        server.start()
        yield server
    finally:
        server.remove()
