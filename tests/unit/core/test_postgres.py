import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from aihub.core.errors import ConfigurationError, InternalError, InvalidRequestError, StorageUnavailableError
from aihub.core.postgres import Database, check_server
from tests.external_servers import ExternalPostgres, free_port

Connect = Callable[..., Awaitable[Database]]


@pytest.fixture
def server(external_postgres: ExternalPostgres) -> ExternalPostgres:
    return external_postgres


@pytest.fixture
async def connect(server: ExternalPostgres) -> AsyncIterator[Connect]:
    """Opens pools and closes them even when the test fails; the pool's own tasks would go on otherwise."""
    async with AsyncExitStack() as stack:

        async def opened(*, pool_size: int = 4, timeout_s: float = 2.0) -> Database:
            database = Database(server.url, pool_size=pool_size, timeout_s=timeout_s)
            await database.open()
            stack.push_async_callback(database.close)
            return database

        yield opened


async def ask(database: Database) -> int:
    async with database.connection() as connection:
        row = await (await connection.execute("SELECT 1")).fetchone()
        assert row is not None
        return int(row[0])


async def recovered(database: Database) -> bool:
    for _ in range(50):
        try:
            return await ask(database) == 1
        except StorageUnavailableError:
            await asyncio.sleep(0.2)
    return False


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_lost_server_is_reported_in_time_and_its_return_noticed(
    server: ExternalPostgres, connect: Connect, fault: signal.Signals
) -> None:
    database = await connect(pool_size=3, timeout_s=0.8)
    await asyncio.gather(*(ask(database) for _ in range(3)))
    server.send(fault)
    try:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(StorageUnavailableError) as caught:
                await ask(database)
            assert time.monotonic() - started < 0.8 + 1.0
            assert caught.value.retry_after_s is not None
        health = await database.check()
        assert health.status == "down"
        assert health.reason
    finally:
        if fault == signal.SIGSTOP:
            server.send(signal.SIGCONT)
        else:
            server.start()
    assert await recovered(database)
    assert (await database.check()).status == "ok"


async def test_restart_between_two_requests_fails_neither(server: ExternalPostgres, connect: Connect) -> None:
    database = await connect(pool_size=4)
    await asyncio.gather(*(ask(database) for _ in range(4)))
    server.send(signal.SIGINT)
    server.start()
    assert await asyncio.gather(*(ask(database) for _ in range(4))) == [1, 1, 1, 1]


async def test_server_killed_during_a_statement_is_unavailable(server: ExternalPostgres, connect: Connect) -> None:
    database = await connect(timeout_s=10)

    async def sleep() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT pg_sleep(5)")

    task = asyncio.create_task(sleep())
    await asyncio.sleep(0.3)
    server.send(signal.SIGKILL)
    with pytest.raises(StorageUnavailableError):
        await asyncio.wait_for(task, 2)
    server.start()


async def test_slow_statement_is_cancelled_and_the_pool_goes_on(server: ExternalPostgres, connect: Connect) -> None:
    database = await connect(pool_size=2, timeout_s=0.5)

    async def wait_for_lock() -> None:
        async with database.transaction() as connection:
            await connection.execute("LOCK TABLE files")

    async with database.transaction(timeout_s=10) as holder:
        await holder.execute("LOCK TABLE files")
        started = time.monotonic()
        results = await asyncio.gather(*(wait_for_lock() for _ in range(3)), return_exceptions=True)
        assert time.monotonic() - started < 2
        assert [type(result) for result in results] == [StorageUnavailableError] * 3
    await wait_for_lock()


async def test_failed_transaction_is_rolled_back_and_a_good_one_kept(database: Database, tenant: str) -> None:
    insert = (
        "INSERT INTO files (tenant_id, id, filename, purpose, size_bytes, sha256, status) "
        "VALUES (%s, %s, 'a', 'b', 0, '', 'uploaded')"
    )
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as connection:
            await connection.execute(insert, (tenant, "lost"))
            raise ZeroDivisionError
    async with database.transaction() as connection:
        await connection.execute(insert, (tenant, "kept"))
    async with database.connection() as connection:
        cursor = await connection.execute("SELECT id FROM files WHERE tenant_id = %s", (tenant,))
        assert await cursor.fetchall() == [("kept",)]


async def test_longer_limit_holds_for_its_transaction_only(server: ExternalPostgres, connect: Connect) -> None:
    database = await connect(pool_size=1, timeout_s=0.3)
    async with database.transaction(timeout_s=5) as connection:
        await connection.execute("SELECT pg_sleep(0.6)")
    with pytest.raises(StorageUnavailableError):
        async with database.connection() as connection:
            await connection.execute("SELECT pg_sleep(0.6)")


async def test_refused_values_and_statements_have_their_own_errors(database: Database) -> None:
    with pytest.raises(InvalidRequestError):
        async with database.connection() as connection:
            await connection.execute("SELECT %s::int", ("không",))
    with pytest.raises(InternalError):
        async with database.connection() as connection:
            await connection.execute("SELECT FROM WHERE")
    assert (await database.check()).status == "ok"


async def test_absent_server_does_not_open() -> None:
    database = Database(f"postgresql://x:geheim@127.0.0.1:{free_port()}/x")
    with pytest.raises(StorageUnavailableError) as caught:
        await database.open()
    assert "geheim" not in caught.value.message


async def test_database_without_tables_does_not_open(server: ExternalPostgres) -> None:
    with pytest.raises(ConfigurationError, match="aihub db upgrade"):
        await Database(server.url.removesuffix("postgres") + "template1").open()


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:p@h/d", "mysql://h/d", "nonsense"])
async def test_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://"):
        await Database(url).open()


async def test_pool_that_was_not_opened_says_so() -> None:
    with pytest.raises(InternalError):
        await ask(Database("postgresql://h/d"))


@pytest.mark.parametrize(
    ("version", "pgvector", "complaint"),
    [
        (130_005, "0.8.5", "PostgreSQL 13"),
        (160_000, None, "no pgvector"),
        (160_000, "0.8.1", "0.8.1"),
        (180_004, "0.7.4", "0.7.4"),
    ],
)
def test_server_below_the_floor_is_refused(version: int, pgvector: str | None, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        check_server(version, pgvector)


@pytest.mark.parametrize("pgvector", ["0.8.2", "0.8.10", "0.9.0", "1.0"])
def test_server_at_or_above_the_floor_is_accepted(pgvector: str) -> None:
    check_server(140_000, pgvector)


async def test_server_that_comes_later_is_waited_for_and_refused_as_unavailable_meanwhile(server: ExternalPostgres) -> None:
    server.crash()
    database = Database(server.url, timeout_s=1.0)
    opening = asyncio.create_task(database.open_patiently(0.1))
    try:
        await asyncio.sleep(0.3)
        with pytest.raises(StorageUnavailableError):
            await ask(database)
        assert not opening.done()
        server.start()
        await asyncio.wait_for(opening, 20)
        assert await ask(database) == 1
    finally:
        opening.cancel()
        await database.close()
