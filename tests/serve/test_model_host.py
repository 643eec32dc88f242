"""`ServeModelHost` on real Serve applications whose engine is none: sleep, wake, and replicas that do not answer."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from ray import serve

from aihub.core.errors import ModelUnavailableError
from aihub.core.profiles import load_profile
from deployments import model_host
from deployments.engine_state import EngineSleep
from deployments.llm_app import app_name
from deployments.model_host import ServeModelHost

MODEL = "no-engine"


class Replica:
    """Has the methods of `LLMDeployment` that the host calls."""

    def __init__(self) -> None:
        self._sleep = EngineSleep(self._change, self._change)
        self._failure = ""
        self._takes_s = 0.2

    async def arrange(self, failure: str, takes_s: float) -> None:
        self._failure, self._takes_s = failure, takes_s

    async def sleep(self) -> None:
        await self._sleep.sleep()

    async def wake(self) -> None:
        await self._sleep.wake()

    async def is_sleeping(self) -> bool:
        return await self._sleep.is_sleeping()

    async def _change(self) -> bool:
        await asyncio.sleep(self._takes_s)
        if self._failure:
            raise ValueError(self._failure)
        return True


@pytest.fixture
async def host(ray_cluster: None) -> AsyncIterator[ServeModelHost]:
    options = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": 16}
    application = serve.deployment(Replica, **options).bind()
    await asyncio.to_thread(serve.run, application, name=app_name(MODEL), route_prefix=None)
    yield ServeModelHost(load_profile("rtx4060ti"), lambda _: {})
    await asyncio.to_thread(serve.delete, app_name(MODEL))


async def arrange(*, failure: str = "", takes_s: float = 0.2) -> None:
    handle = await asyncio.to_thread(serve.get_app_handle, app_name(MODEL))
    await handle.arrange.remote(failure, takes_s)


async def test_model_sleeps_and_wakes_and_a_new_host_finds_it_as_it_is(host: ServeModelHost) -> None:
    assert not await host.is_sleeping(MODEL)
    await host.sleep(MODEL)
    assert await ServeModelHost(load_profile("rtx4060ti"), lambda _: {}).is_sleeping(MODEL)
    assert MODEL in await host.running()
    await host.wake(MODEL)
    assert not await host.is_sleeping(MODEL)


async def test_who_asks_during_a_change_hears_its_end(host: ServeModelHost) -> None:
    await arrange(takes_s=1.0)
    change = asyncio.create_task(host.sleep(MODEL))
    await asyncio.sleep(0.3)
    assert await host.is_sleeping(MODEL)
    await change


async def test_failed_change_is_told_with_its_cause(host: ServeModelHost) -> None:
    await arrange(failure="no pinned memory")
    with pytest.raises(ModelUnavailableError, match="no pinned memory"):
        await host.sleep(MODEL)


async def test_change_that_hangs_ends_in_time(host: ServeModelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_host, "SLEEP_CHANGE_TIMEOUT_S", 0.5)
    await arrange(takes_s=60.0)
    with pytest.raises(ModelUnavailableError, match="sleep: TimeoutError"):
        await host.sleep(MODEL)


async def test_model_that_is_not_there_does_not_say_whether_it_sleeps(host: ServeModelHost) -> None:
    with pytest.raises(ModelUnavailableError, match="missing"):
        await host.is_sleeping("missing")
