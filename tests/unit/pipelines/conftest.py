import asyncio
from collections.abc import Callable

import pytest

from tests.unit.models.memory.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests of long waits run in virtual time."""
    if item.path.name == "test_load_wait.py":
        return {"virtual_time": VirtualTimeLoop}
    return {"default": asyncio.new_event_loop}
