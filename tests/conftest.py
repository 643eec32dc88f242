"""Fixtures on real servers: one embedded PostgreSQL and Redis per session, a tenant of its own per test."""

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest

from aihub.core.embedded.stores import EmbeddedStores, StoreUrls
from aihub.core.postgres import Database
from tests.external_servers import ExternalPostgres

pytest_plugins = ["tests.account_databases", "tests.cluster"]

# On a busy machine a single example may take long; `pytest-timeout` bounds the whole test.
hypothesis.settings.register_profile("hub", deadline=None)
hypothesis.settings.load_profile("hub")
# Tests on a real cluster, where warnings of Ray and vLLM come and go with their timing.
WITH_CLUSTER = [Path(__file__).parent / folder for folder in ("serve", "chaos")]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Warnings are errors (pyproject.toml), except in tests on a real cluster."""
    if any(folder in item.path.parents for folder in WITH_CLUSTER):
        item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def embedded_stores() -> Iterator[StoreUrls]:
    """URLs of embedded servers with all migrations done; started on first use, gone at the end of the session."""
    from aihub.core.migrate import upgrade

    home = Path(tempfile.mkdtemp(prefix="aihub-test-"))
    stores = EmbeddedStores(home)
    try:
        urls = stores.start()
        upgrade(urls.database_url)
        yield urls
    finally:
        stores.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def external_postgres() -> Iterator[ExternalPostgres]:
    """A migrated PostgreSQL on a TCP port; a test that ends it starts it again."""
    from aihub.core.migrate import upgrade

    server = ExternalPostgres()
    try:
        server.start()
        upgrade(server.url)
        yield server
    finally:
        server.remove()


@pytest.fixture
async def database(embedded_stores: StoreUrls) -> AsyncIterator[Database]:
    """An open pool on the session's PostgreSQL."""
    opened = Database(embedded_stores.database_url, pool_size=4, timeout_s=5.0)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def tenant(embedded_stores: StoreUrls) -> Iterator[str]:
    """A tenant nobody else uses; whatever it stored is deleted afterwards, so that no test claims another's document."""
    name = f"tenant-{secrets.token_hex(6)}"
    yield name
    with psycopg.connect(embedded_stores.database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM vector_stores WHERE tenant_id = %s", (name,))
        connection.execute("DELETE FROM finetuning_jobs WHERE tenant_id = %s", (name,))
        connection.execute("DELETE FROM files WHERE tenant_id = %s", (name,))
        connection.execute("DELETE FROM conversations WHERE tenant_id = %s", (name,))
        connection.execute("DELETE FROM preferences WHERE tenant_id = %s", (name,))
        connection.execute("DELETE FROM usage_records WHERE tenant_id = %s", (name,))
        connection.execute("DELETE FROM users WHERE tenant_id = %s", (name,))
        connection.execute("DELETE FROM tenants WHERE id = %s", (name,))
