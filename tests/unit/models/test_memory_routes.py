"""`/api/v1/models` on the real lifecycle with a fake device."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from aihub.core.errors import ModelUnavailableError
from aihub.http.errors import install_error_handlers
from aihub.http.middleware import RequestContext
from aihub.models import routes
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.state import UnloadLevel
from aihub.models.memory.status import LifecycleStatus, ModelStatus
from aihub.models.schemas import GenerationDefaults, ModelInfo
from tests.unit.conftest import assert_refused
from tests.unit.http.services import Parts
from tests.unit.models.memory.lifecycle_parts import GIB, Hub, running_hub, spec

PATH = "/api/v1/models"


class LocalModels:
    """The service on a lifecycle; engine calls are faked."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.defaults: dict[str, GenerationDefaults] = {}

    async def status(self) -> LifecycleStatus:
        return await self.hub.lifecycle.status()

    async def load(self, model_id: str, *, force_reload: bool) -> ModelStatus:
        return await self.hub.lifecycle.load(model_id, force_reload=force_reload)

    async def unload(self, model_id: str, *, level: UnloadLevel) -> ModelStatus:
        return await self.hub.lifecycle.unload(model_id, level)

    async def pin(self, model_id: str) -> ModelStatus:
        return await self.hub.lifecycle.pin(model_id)

    async def unpin(self, model_id: str) -> ModelStatus:
        return await self.hub.lifecycle.unpin(model_id)

    async def info(self, model_id: str) -> ModelInfo:
        status = await self._loaded(model_id)
        return ModelInfo(
            model_id=model_id,
            device=status.device,
            memory_bytes=status.need_bytes,
            quantization=status.quantization,
            context_tokens=status.context_tokens,
            generation_config=self.defaults.get(model_id),
        )

    async def update_generation_config(self, model_id: str, changes: GenerationDefaults) -> GenerationDefaults:
        await self._loaded(model_id)
        old = self.defaults.get(model_id, GenerationDefaults())
        self.defaults[model_id] = old.model_copy(update=changes.model_dump(exclude_unset=True))
        return self.defaults[model_id]

    async def clear_cache(self, model_id: str) -> bool:
        await self._loaded(model_id)
        return True

    async def _loaded(self, model_id: str) -> ModelStatus:
        status = await self.hub.lifecycle.info(model_id)
        if status.state != "ready":
            raise ModelUnavailableError(f"The model {model_id!r} is not loaded. Load it first.")
        return status


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    host = FakeHost({"cpu": 64 * GIB, "cuda:0": 64 * GIB}, start_s=0.01, stop_s=0.01, give_back_s=0.0, wake_s=0.01)
    specs = spec("a", 6), spec("b", 6), spec("huge", 20), spec("on-gpu", 6, device="cuda:0")
    async with running_hub(*specs, host=host, budgets={"cpu": 10.0, "cuda:0": 10.0}) as running:
        yield running


@pytest.fixture
async def http(hub: Hub) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(redirect_slashes=False)
    app.state.services = replace(Parts().services(), lifecycle=LocalModels(hub))
    install_error_handlers(app)
    app.add_middleware(RequestContext, sends_id=True)
    app.include_router(routes.loaded_models_router)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def post(http: httpx.AsyncClient, action: str, **body: Any) -> dict[str, Any]:
    answer = await http.post(f"{PATH}/{action}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["success"] is True
    data: dict[str, Any] = answer.json()["data"]
    return data


async def test_list_shows_installed_models_and_their_state(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="a")
    data = (await http.get(PATH)).json()["data"]
    assert {one["model_id"]: one["state"] for one in data["models"]} == {
        "a": "ready",
        "b": "unloaded",
        "huge": "unloaded",
        "on-gpu": "unloaded",
    }


async def test_load_answers_once_the_model_is_ready(http: httpx.AsyncClient, hub: Hub) -> None:
    data = await post(http, "load", model_id="a")
    assert (data["state"], data["device"], data["need_bytes"]) == ("ready", "cpu", 6 * GIB)
    assert "a" in hub.host.specs


async def test_force_reload_starts_it_again(http: httpx.AsyncClient, hub: Hub) -> None:
    await post(http, "load", model_id="a")
    await post(http, "load", model_id="a", force_reload=True)
    assert hub.host.starts == ["a", "a"]


async def test_unload_gives_the_memory_back(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="a")
    assert (await post(http, "unload", model_id="a"))["state"] == "unloaded"
    device = (await http.get(f"{PATH}/status")).json()["data"]["devices"][0]
    assert (device["reserved_bytes"], device["holders"]) == (0, [])


async def test_model_on_a_gpu_sleeps_unless_a_full_unload_is_asked_for(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="on-gpu")
    data = await post(http, "unload", model_id="on-gpu")
    assert (data["state"], data["sleeping_bytes"]) == ("sleeping", 4.5 * GIB)
    status = (await http.get(f"{PATH}/status")).json()["data"]
    held = {device["device"]: [holder["holder"] for holder in device["holders"]] for device in status["devices"]}
    assert held == {"cpu": ["on-gpu"], "cuda:0": ["on-gpu"]}
    assert (await post(http, "load", model_id="on-gpu"))["state"] == "ready"
    assert (await post(http, "unload", model_id="on-gpu", level="full"))["state"] == "unloaded"


@pytest.mark.parametrize("level", ["sleep", "full", None])
async def test_model_on_a_cpu_is_unloaded_whatever_the_level_and_the_answer_says_so(
    http: httpx.AsyncClient, level: str | None
) -> None:
    await post(http, "load", model_id="a")
    data = await post(http, "unload", model_id="a", level=level)
    assert (data["state"], data["sleeping_bytes"]) == ("unloaded", 0)


@pytest.mark.parametrize("level", ["deep", "", 1, "Sleep"])
async def test_unknown_level_is_400_and_changes_nothing(http: httpx.AsyncClient, hub: Hub, level: Any) -> None:
    await post(http, "load", model_id="a")
    assert_refused(await http.post(f"{PATH}/unload", json={"model_id": "a", "level": level}), 400, param="level")
    assert await hub.ready() == {"a"}


async def test_status_says_who_holds_each_device(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="a")
    device = (await http.get(f"{PATH}/status")).json()["data"]["devices"][0]
    assert (device["device"], device["budget_bytes"], device["reserved_bytes"]) == ("cpu", 10 * GIB, 6 * GIB)
    assert [holder["holder"] for holder in device["holders"]] == ["a"]


async def test_pinned_model_refuses_to_be_unloaded(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="a")
    assert (await post(http, "pin", model_id="a"))["pinned"] is True
    assert_refused(await http.post(f"{PATH}/unload", json={"model_id": "a"}), 409, param="model_id")
    assert (await post(http, "unpin", model_id="a"))["pinned"] is False
    await post(http, "unload", model_id="a")


async def test_model_that_never_fits_is_503_with_numbers_and_retry_after(http: httpx.AsyncClient) -> None:
    answer = await http.post(f"{PATH}/load", json={"model_id": "huge"})
    error = assert_refused(answer, 503, code="model_too_large")
    assert "20.0 GiB" in error["message"]
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin", "clear_cache", "generation_config"])
@pytest.mark.parametrize("name", ["không-có", "../a", "a/../a", "A", "a\n", "%2e%2e", "a" * 256])
async def test_unknown_model_is_404(http: httpx.AsyncClient, action: str, name: str) -> None:
    body: dict[str, Any] = {"model_id": name}
    if action == "generation_config":
        body["generation_config"] = {}
    assert_refused(await http.post(f"{PATH}/{action}", json=body), 404, code="model_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model_id": ""},
        {"model_id": 7},
        {"model_id": "a" * 257},
        {"model_id": "a", "force_reload": "true"},
        {"model_id": "a", "x": 1},
    ],
)
async def test_wrong_body_is_400(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert_refused(await http.post(f"{PATH}/load", json=body), 400)
    await post(http, "load", model_id="a")


async def test_info_of_a_loaded_model_has_device_memory_and_context(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="a")
    data = (await http.get(f"{PATH}/info", params={"model_id": "a"})).json()["data"]
    assert (data["device"], data["memory_bytes"], data["context_tokens"], data["quantization"]) == ("cpu", 6 * GIB, 4096, None)


async def test_info_of_a_model_that_is_not_loaded_is_503(http: httpx.AsyncClient) -> None:
    assert_refused(await http.get(f"{PATH}/info", params={"model_id": "a"}), 503)


async def test_generation_config_keeps_what_was_not_named(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="a")
    await post(http, "generation_config", model_id="a", generation_config={"temperature": 0.2, "top_p": 0.9})
    data = await post(http, "generation_config", model_id="a", generation_config={"temperature": None})
    assert data["generation_config"]["temperature"] is None
    assert data["generation_config"]["top_p"] == 0.9


@pytest.mark.parametrize(
    "config", [{"temperature": -1}, {"temperature": 3}, {"top_p": 0}, {"max_tokens": 0}, {"colour": 1}, None]
)
async def test_generation_config_out_of_bounds_is_400(http: httpx.AsyncClient, config: Any) -> None:
    await post(http, "load", model_id="a")
    assert_refused(await http.post(f"{PATH}/generation_config", json={"model_id": "a", "generation_config": config}), 400)


async def test_cleared_cache_is_confirmed(http: httpx.AsyncClient) -> None:
    await post(http, "load", model_id="a")
    assert await post(http, "clear_cache", model_id="a") == {"model_id": "a", "cleared": True}


async def test_load_goes_on_when_the_caller_leaves(http: httpx.AsyncClient, hub: Hub) -> None:
    hub.host.start_s = 0.2
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await http.post(f"{PATH}/load", json={"model_id": "a"})
    await asyncio.sleep(0.3)
    assert await hub.ready() == {"a"}
