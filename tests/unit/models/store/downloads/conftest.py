import random
from collections.abc import AsyncIterator

import pytest

from tests.unit.models.store.downloads.file_server import FileServer


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """Gives 3 MB of noise with some Vietnamese in it."""
    content = random.Random(7).randbytes(3_000_000) + "Xin chào thế giới".encode()  # noqa: S311  # the same noise each time
    async with FileServer(content) as running:
        yield running
