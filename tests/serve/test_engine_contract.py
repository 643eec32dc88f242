"""The real vLLM engine, reached over its Serve handle, keeps every promise of a `ChatEngine`."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from aihub.chat.service import ChatEngine
from deployments.handles import AppConnection
from deployments.llm_app import app_name
from deployments.service_client import engine_client
from tests.cluster import RunningHub
from tests.contract.test_chat_engine import ChatEngineContract


@pytest.mark.usefixtures("ray_cluster")
class TestVLLMEngine(ChatEngineContract):
    @pytest.fixture
    async def connection(self, hub: RunningHub) -> AsyncIterator[AppConnection]:
        connection = AppConnection(app_name(hub.model), "The model")
        connection.start()
        while connection.health.status != "ok":  # noqa: ASYNC110  # there is no event to wait for in another process
            await asyncio.sleep(0.05)
        yield connection
        await connection.close()

    @pytest.fixture
    def engine(self, connection: AppConnection) -> ChatEngine:
        self._connection = connection
        return engine_client(connection)

    async def active(self, engine: ChatEngine) -> int:
        active: int = await self._connection.call("active_requests")
        return active
