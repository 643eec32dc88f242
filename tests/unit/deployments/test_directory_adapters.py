"""Names of adapters in the ingress: which model is asked for them, and by which name."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from aihub.chat.history import EngineHistory
from aihub.core.errors import NotFoundError
from aihub.core.health import PartHealth
from aihub.core.principal import Principal
from aihub.models.configuration import HubConfiguration
from aihub.models.memory.state import Directory, ReadyModel
from aihub.models.service import AdapterView, ModelsReport, ModelView
from deployments import model_directory
from deployments.model_directory import ModelDirectory
from deployments.service_client import adapters_client
from tests.unit.deployments.test_model_directory import VIEW

FIRST, SECOND = AdapterView("m:shop@v1", "m:shop", "m", 11), AdapterView("m:shop@v2", None, "m", 12)


class Cluster:
    """The models' application and the models', by the names of what is called."""

    def __init__(self) -> None:
        self.adapters: tuple[AdapterView, ...] = (FIRST, SECOND)
        self.views: tuple[ModelView, ...] = (VIEW,)
        self.ready: set[str] = set()
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.is_new = False
        self.health = PartHealth("ok")

    def start(self) -> None:
        """Nothing to probe."""

    async def last_health(self) -> PartHealth:
        return self.health

    async def call(self, method: str, *args: Any, **_: Any) -> Any:
        self.calls.append(method)
        if method == "report":
            ready = {name: ReadyModel(name, 4096, 5) for name in self.ready}
            return ModelsReport(Directory(1, ready, frozenset(), 4.0), self.views, HubConfiguration(), self.adapters)
        if method == "adapters":
            return self.adapters
        if method == "ensure":
            if all(view.model_id != args[0] for view in self.views):
                raise NotFoundError("no such model")
            self.ready.add(args[0])
            return ReadyModel(args[0], 4096, 5)
        if method == "chat":
            self.bodies.append(args[0])
        return {"model": args[0]["model"]} if args and isinstance(args[0], dict) else None

    async def stream(self, _method: str, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        self.bodies.append(body)
        yield "data: [DONE]\n\n"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def directory(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> ModelDirectory:
    monkeypatch.setattr(model_directory, "AppConnection", lambda *_, **__: cluster)
    models: Any = cluster
    found = ModelDirectory(models, default_model="m", history=EngineHistory(), configured=lambda _: None, max_in_flight=2)
    await found.refresh()
    cluster.calls.clear()
    return found


@pytest.mark.parametrize(
    ("asked", "engine_name"),
    [("m", "m"), ("m:shop", "m:shop@v1"), ("m:shop@v1", "m:shop@v1"), ("m:shop@v2", "m:shop@v2")],
)
async def test_alias_and_version_are_answered_by_the_engine_of_their_base(
    directory: ModelDirectory, cluster: Cluster, asked: str, engine_name: str
) -> None:
    engine = await directory.resolve(Principal(), asked)
    assert cluster.calls == ["ensure"]
    assert (await engine.chat({"model": asked, "messages": []}))["model"] == engine_name
    assert [frame async for frame in engine.stream_chat({"model": asked})] == ["data: [DONE]\n\n"]
    assert [body["model"] for body in cluster.bodies] == [engine_name] * 2


async def test_requests_of_adapters_count_as_the_bases(directory: ModelDirectory) -> None:
    for name in ("m:shop", "m"):
        directory.note_begin("m")
        engine: Any = await directory.resolve(Principal(), name)
        with engine.hold():
            assert directory._in_flight == {"m": 2}
        directory.note_end("m")


async def test_ready_base_is_asked_without_the_manager(directory: ModelDirectory, cluster: Cluster) -> None:
    cluster.ready.add("m")
    await directory.refresh()
    cluster.calls.clear()
    await directory.resolve(Principal(), "m:shop")
    assert cluster.calls == []


async def test_adapter_published_since_the_last_report_is_found(directory: ModelDirectory, cluster: Cluster) -> None:
    cluster.adapters += (AdapterView("m:new@v1", None, "m", 13),)
    engine = await directory.resolve(Principal(), "m:new@v1")
    assert (await engine.chat({"model": "m:new@v1"}))["model"] == "m:new@v1"
    assert cluster.calls[:2] == ["adapters", "ensure"]


@pytest.mark.parametrize("name", ["m:nobody", "m:shop@v3", "x:shop@v1", "m:shop:more", "m:"])
async def test_unknown_adapter_is_a_model_that_is_not_there(directory: ModelDirectory, name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await directory.resolve(Principal(), name)
    assert caught.value.code == "model_not_found"
    assert name in caught.value.message


async def test_model_whose_name_could_be_an_alias_comes_first(directory: ModelDirectory, cluster: Cluster) -> None:
    cluster.views += (ModelView("m:shop", "unloaded", False, None, ("chat",), ("en",), 4096, 1, fits=True),)
    await directory.refresh()
    engine = await directory.resolve(Principal(), "m:shop")
    assert (await engine.chat({"model": "m:shop"}))["model"] == "m:shop"


async def test_adapters_are_listed_behind_models_and_routing_never_sees_them(directory: ModelDirectory) -> None:
    assert [(info.model_id, info.created, info.owned_by) for info in await directory.list(Principal())] == [
        ("m", 0, "aihub"),
        ("m:shop", 11, "aihub"),
        ("m:shop@v1", 11, "aihub"),
        ("m:shop@v2", 12, "aihub"),
    ]
    assert [candidate.model_id for candidate in await directory.candidates()] == ["m"]


async def test_adapters_of_a_base_that_does_not_fit_are_not_listed(directory: ModelDirectory, cluster: Cluster) -> None:
    cluster.views = (ModelView("m", "unloaded", False, None, ("chat",), ("en",), 4096, 1, fits=False),)
    await directory.refresh()
    assert await directory.list(Principal()) == []


async def test_change_is_seen_by_the_next_request(directory: ModelDirectory, cluster: Cluster) -> None:
    models: Any = cluster
    client: Any = adapters_client(models, "adapters_", directory.refresh)
    cluster.adapters = (AdapterView("m:shop@v1", None, "m", 11), AdapterView("m:shop@v2", "m:shop", "m", 12))
    await client.promote("principal", "m:shop@v2", force=False)
    assert cluster.calls == ["adapters_promote", "report"]
    engine = await directory.resolve(Principal(), "m:shop")
    assert (await engine.chat({"model": "m:shop"}))["model"] == "m:shop@v2"


async def test_adapters_of_other_tenants_are_models_that_are_not_there(directory: ModelDirectory, cluster: Cluster) -> None:
    theirs = AdapterView("m:theirs@v1", "m:theirs", "m", 14, "shop-b")
    cluster.adapters += (theirs,)
    await directory.refresh()
    shop = Principal(tenant_id="shop-b")
    assert [info.model_id for info in await directory.list(shop)] == ["m", "m:theirs", "m:theirs@v1"]
    assert (await (await directory.resolve(shop, "m:theirs")).chat({}))["model"] == "m:theirs@v1"
    for caller, name in ((Principal(), "m:theirs"), (Principal(), "m:theirs@v1"), (shop, "m:shop"), (shop, "m:shop@v1")):
        with pytest.raises(NotFoundError):
            await directory.resolve(caller, name)
        with pytest.raises(NotFoundError):
            await directory.require(caller, name)


async def test_engine_keeps_prompts_of_tenants_apart(directory: ModelDirectory, cluster: Cluster) -> None:
    for tenant in ("default", "shop-a", "cửa-hàng", "shop-a"):
        engine = await directory.resolve(Principal(tenant_id=tenant), "m")
        await engine.chat({})
        _ = [frame async for frame in engine.stream_chat({})]
    salts = [body.get("cache_salt") for body in cluster.bodies]
    assert salts[:2] == [None, None]
    assert salts[2] == salts[3] == salts[6] == salts[7]
    assert len(set(salts)) == 3
    assert all(len(salt) <= 128 and salt.isalnum() for salt in salts if salt is not None)
