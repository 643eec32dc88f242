import asyncio
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

from .virtual_time import VirtualTimePolicy


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """Tests here run in virtual time."""
    return VirtualTimePolicy()


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Fail a test in which our async code blocks the event loop."""
    with blockbuster_ctx("aihub"):
        yield
