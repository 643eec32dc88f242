import pytest

from tests.unit.models.memory.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, type[VirtualTimeLoop]]:
    """Tests here run in virtual time."""
    return {"virtual_time": VirtualTimeLoop}
