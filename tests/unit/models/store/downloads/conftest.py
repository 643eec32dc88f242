import random
from collections.abc import AsyncIterator, Iterator

import pytest
from blockbuster import blockbuster_ctx

from tests.unit.models.store.downloads.file_server import FileServer


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Fail a test in which our async code blocks the event loop."""
    with blockbuster_ctx("aihub"):
        yield


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """Gives 3 MB of noise with some Vietnamese in it."""
    content = random.Random(7).randbytes(3_000_000) + "Xin chào thế giới".encode()  # noqa: S311  # the same noise each time
    async with FileServer(content) as running:
        yield running
