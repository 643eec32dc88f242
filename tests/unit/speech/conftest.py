"""Recognisers of the real models, and the exit codes of those that died unasked."""

from collections.abc import AsyncIterator

import pytest

from aihub.speech.recognition.pool import RecogniserPool


@pytest.fixture
def deaths() -> list[int | None]:
    return []


@pytest.fixture
async def pool(deaths: list[int | None]) -> AsyncIterator[RecogniserPool]:
    opened = RecogniserPool(died=deaths.append)
    yield opened
    await opened.close()
