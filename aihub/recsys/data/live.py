"""What may be sold at this moment: asked for every answer, as a recommendation must never name what is gone."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import psycopg
from psycopg import AsyncConnection
from psycopg.sql import Composed
from psycopg.types.numeric import Int8
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from aihub.recsys.data import queries
from aihub.recsys.data.connections import ShopUnavailableError, shop_conninfo, translated_errors
from aihub.recsys.data.mapping import Mapping
from aihub.recsys.data.shape import Shape, read_shape_async

Compose = Callable[[Shape], Composed]


class Availability(Protocol):
    """What serving asks of a shop. All raise `ShopUnavailableError` when it does not answer."""

    async def items_on_sale(
        self, tenant: str, store_id: int, item_ids: Sequence[int], *, not_bought_by: int | None = None
    ) -> dict[int, int]:
        """Of these items, those that are neither deleted nor out of stock, each with its first such variant.

        Args:
            not_bought_by: Leave out what this customer has ordered.
        """
        ...

    async def variants_on_sale(self, tenant: str, store_id: int, variant_ids: Sequence[int]) -> dict[int, int]:
        """Of these variants, those that are neither deleted nor out of stock, each with its item."""
        ...

    async def bought_items(self, tenant: str, store_id: int, user_id: int) -> set[int]:
        """The items this customer has ordered."""
        ...


class LiveShop:
    """The shop's own tables.

    Args:
        dsn: libpq URL.
        mapping: Names of tables and columns; compared with the database once, at the first question.
        timeout_s: Longest wait for a connection, and longest statement.
        connections: Most connections held.
    """

    def __init__(self, dsn: str, mapping: Mapping, *, timeout_s: float = 2.0, connections: int = 8) -> None:
        self._dsn = dsn
        self._mapping = mapping
        self._timeout_s = timeout_s
        self._connections = connections
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._ignored = [status.lower() for status in mapping.ignored_order_statuses]
        self._statements: dict[Compose, bytes] = {}
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def items_on_sale(
        self, tenant: str, store_id: int, item_ids: Sequence[int], *, not_bought_by: int | None = None
    ) -> dict[int, int]:
        values = {"items": _array(item_ids), "user": None if not_bought_by is None else Int8(not_bought_by)}
        return dict(await self._ask(queries.on_sale, tenant, store_id, values)) if item_ids else {}

    async def variants_on_sale(self, tenant: str, store_id: int, variant_ids: Sequence[int]) -> dict[int, int]:
        values = {"variants": _array(variant_ids)}
        return dict(await self._ask(queries.variants_on_sale, tenant, store_id, values)) if variant_ids else {}

    async def bought_items(self, tenant: str, store_id: int, user_id: int) -> set[int]:
        return {row[0] for row in await self._ask(queries.bought_items, tenant, store_id, {"user": Int8(user_id)})}

    async def _ask(self, compose: Compose, tenant: str, store_id: int, values: dict[str, Any]) -> list[Any]:
        self._mapping.check_store(store_id)
        parameters = {"tenant": tenant, "store": Int8(store_id), "ignored": self._ignored} | values
        with translated_errors():
            try:
                async with asyncio.timeout(self._timeout_s + 0.5):
                    try:
                        return await self._fetch(compose, parameters)
                    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                        if isinstance(error, psycopg.errors.QueryCanceled | PoolTimeout):
                            raise
                        # A connection that died in the pool; checking each before use would cost every answer a round trip.
                        if self._pool is not None:
                            await self._pool.check()
                        return await self._fetch(compose, parameters)
            except (PoolTimeout, TooManyRequests, TimeoutError) as error:
                raise ShopUnavailableError("The shop's database has no connection left in time. Try again.") from error

    async def _fetch(self, compose: Compose, parameters: dict[str, Any]) -> list[Any]:
        pool = self._pool or await self._open()
        async with pool.connection() as connection:
            statement = self._statements.get(compose)
            if statement is None:
                shape = await read_shape_async(connection, self._mapping)
                statement = self._statements[compose] = compose(shape).as_bytes(connection)
            cursor = await connection.execute(statement, parameters, prepare=True)
            return await cursor.fetchall()

    async def _open(self) -> AsyncConnectionPool[AsyncConnection[Any]]:
        async with self._opening:
            if self._pool is None:
                pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
                    shop_conninfo(self._dsn, statement_timeout_s=self._timeout_s, plans_once=True),
                    kwargs={"autocommit": True},
                    min_size=1,
                    max_size=self._connections,
                    max_waiting=256,
                    open=False,
                    timeout=self._timeout_s,
                    reconnect_timeout=3.0,
                )
                await pool.open()
                self._pool = pool
            return self._pool


def _array(ids: Sequence[int]) -> str:
    """An array's text: written faster than by psycopg, and of the same type whatever the numbers, so prepared once."""
    return f"{{{','.join(map(str, ids))}}}"
