from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.cluster import RunningHub


@pytest.fixture
def client(hub: RunningHub) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hub.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def async_client(hub: RunningHub) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{hub.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client
