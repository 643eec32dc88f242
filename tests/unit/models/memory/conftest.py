from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

from tests.unit.models.memory.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, type[VirtualTimeLoop]]:
    """Tests here run in virtual time."""
    return {"virtual_time": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Fail a test in which our async code blocks the event loop."""
    with blockbuster_ctx("aihub"):
        yield
