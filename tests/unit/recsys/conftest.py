"""What the tests on a shop's data share."""

from collections.abc import Iterator

import pytest

from aihub.core.embedded.stores import StoreUrls
from tests.unit.recsys.shop_parts import Shop


@pytest.fixture
def shop(embedded_stores: StoreUrls, tenant: str) -> Iterator[Shop]:
    """An empty shop of a tenant nobody else uses."""
    made = Shop(embedded_stores.database_url, tenant)
    yield made
    made.remove()
