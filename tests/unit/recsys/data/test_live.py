import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from aihub.core.errors import NotFoundError
from aihub.recsys.data.connections import MappingMismatchError, ShopUnavailableError
from aihub.recsys.data.live import LiveShop
from aihub.recsys.data.mapping import load_mapping
from tests.external_servers import free_port
from tests.unit.recsys.shop_parts import MONDAY_S, Shop


@pytest.fixture
async def live(shop: Shop) -> AsyncIterator[LiveShop]:
    shop.catalogue()
    shop.customers(7, 8)
    shop.order(7, MONDAY_S, 11, 32)
    opened = LiveShop(shop.dsn, load_mapping(), connections=2)
    yield opened
    await opened.close()


async def test_every_item_in_stock_comes_with_its_first_variant(live: LiveShop, shop: Shop) -> None:
    assert await live.items_on_sale(shop.tenant, 1, [1, 2, 99]) == {1: 11, 2: 21}
    assert await live.items_on_sale(shop.tenant, 1, []) == {}


async def test_deleted_and_sold_out_goods_vanish_at_once(live: LiveShop, shop: Shop) -> None:
    shop.delete_product(1)
    shop.set_stock(21, 0)
    shop.set_stock(31, -2)
    shop.set_stock(32, 0)
    shop.set_stock(41, None)  # not counted: always there
    assert await live.items_on_sale(shop.tenant, 1, [1, 2, 3, 4]) == {2: 22, 4: 41}
    assert await live.variants_on_sale(shop.tenant, 1, [11, 21, 22, 41]) == {22: 2, 41: 4}


async def test_bought_items_are_left_out_on_request(live: LiveShop, shop: Shop) -> None:
    assert await live.bought_items(shop.tenant, 1, 7) == {1, 3}
    assert await live.items_on_sale(shop.tenant, 1, [1, 2, 3], not_bought_by=7) == {2: 21}
    assert set(await live.items_on_sale(shop.tenant, 1, [1, 2, 3], not_bought_by=8)) == {1, 2, 3}


async def test_returned_order_is_not_a_purchase(live: LiveShop, shop: Shop) -> None:
    shop.order(8, MONDAY_S, 51, status="Refunded")
    assert await live.bought_items(shop.tenant, 1, 8) == set()
    assert await live.items_on_sale(shop.tenant, 1, [5], not_bought_by=8) == {5: 51}


async def test_other_tenants_see_nothing(live: LiveShop) -> None:
    assert await live.items_on_sale("nobody", 1, [1]) == {}


async def test_connections_that_died_are_replaced_unseen(live: LiveShop, shop: Shop) -> None:
    await live.items_on_sale(shop.tenant, 1, [1])
    with psycopg.connect(shop.dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'aihub-recsys'")
    assert await live.items_on_sale(shop.tenant, 1, [1]) == {1: 11}


async def test_many_questions_at_once_share_few_connections(live: LiveShop, shop: Shop) -> None:
    answers = await asyncio.gather(*(live.items_on_sale(shop.tenant, 1, [number]) for number in range(40)))
    assert sum(map(len, answers)) == 5


async def test_absent_database_is_unavailable_in_time() -> None:
    live = LiveShop(f"postgresql://x@127.0.0.1:{free_port()}/x", load_mapping(), timeout_s=0.3)
    with pytest.raises(ShopUnavailableError):
        await live.items_on_sale("t", 1, [1])
    await live.close()


async def test_mapping_that_does_not_fit_is_told(shop: Shop) -> None:
    mapping = load_mapping().model_copy(update={"single_store_id": 4})
    tables = mapping.tables.model_copy(update={"products": mapping.tables.products.model_copy(update={"table": "hang"})})
    live = LiveShop(shop.dsn, mapping.model_copy(update={"tables": tables}))
    with pytest.raises(MappingMismatchError, match="hang"):
        await live.items_on_sale("t", 4, [1])
    with pytest.raises(NotFoundError):
        await live.items_on_sale("t", 5, [1])
    await live.close()
