"""The service over a real store, and its routes over the service; merging with a real tiny model."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import ConflictError, ModelUnavailableError, NotFoundError
from aihub.core.principal import Principal
from aihub.finetuning import merged_models
from aihub.finetuning.adapter_folder import WEIGHTS, Adapter
from aihub.finetuning.adapter_ids import AdapterId, parse_adapter_id
from aihub.finetuning.adapter_state import STATE
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.adapters import Adapters
from aihub.finetuning.merged_models import ORIGIN, MergedModels, merged_model_id
from aihub.http.app import create_app
from aihub.models.keys import ModelKey
from tests.unit.conftest import assert_refused
from tests.unit.finetuning.adapter_parts import BASE, build_candidate, manifest, report
from tests.unit.http.services import Parts

ME, OTHER = Principal(), Principal("other")
ALIAS = f"{BASE}:shop"
V1, V2 = f"{ALIAS}@v1", f"{ALIAS}@v2"


class Hub:
    """The service with an engine that holds a deleted adapter until it is told."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = AdapterStore(home)
        self.candidate = build_candidate(home / "candidate")
        self.folders: dict[str, Path] = {}
        self.may_drop = asyncio.Event()
        self.may_drop.set()
        self.dropped: list[tuple[str, str]] = []
        self.refreshes = 0
        self.is_engine_silent = False
        self.free_ram_bytes = 2**40
        self.service = self.new_service()

    def new_service(self) -> Adapters:
        return Adapters(
            self.store,
            merged=MergedModels(self.home / "models", self.folders.get, lambda: self.free_ram_bytes),
            drop=self._drop,
            models_changed=self._changed,
        )

    async def _drop(self, base: str, adapter_id: str) -> None:
        if self.is_engine_silent:
            raise ModelUnavailableError("no answer")
        await self.may_drop.wait()
        self.dropped.append((base, adapter_id))

    async def _changed(self) -> None:
        self.refreshes += 1

    def publish(self, **more: Any) -> str:
        return self.store.publish(self.candidate, manifest(**more)).adapter_id

    async def settle(self) -> None:
        await asyncio.gather(*self.service._purges)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(tmp_path)
    yield hub
    await hub.service.close()


@pytest.fixture
async def client(hub: Hub) -> AsyncIterator[httpx.AsyncClient]:
    services = replace(Parts(engine=FakeChatEngine()).services(), adapters=hub.service)
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


async def test_report_of_an_adapter_tells_all_that_is_known(hub: Hub) -> None:
    hub.publish(evaluation=report(base=1.0, candidate=3.0))
    told = await hub.service.get(ME, V1)
    assert (told.id, told.alias, told.base_model, told.version, told.rank) == (V1, None, BASE, 1, 2)
    assert told.settings["ghi chú"] == "tiếng Việt"
    assert told.evaluation.candidate.loss == 3.0
    assert "worse than smollm2" in (told.evaluation.objection or "")
    assert told.notes == []
    assert [item.id for item in await hub.service.list(ME)] == [V1]


@pytest.mark.parametrize("changes", [{"is_held_out": False}, {"rows": 0}])
async def test_adapter_without_held_out_rows_says_so_and_is_promoted(hub: Hub, changes: dict[str, Any]) -> None:
    hub.publish(evaluation=replace(report(), **changes))
    told = await hub.service.promote(ME, V1, force=False)
    assert told.alias == ALIAS
    assert "no rows held out" in told.notes[0]


async def test_other_tenants_see_and_change_nothing(hub: Hub) -> None:
    hub.publish()
    await hub.service.promote(ME, V1, force=False)
    assert await hub.service.list(OTHER) == []
    for call in (
        hub.service.get(OTHER, V1),
        hub.service.promote(OTHER, V1, force=True),
        hub.service.rollback(OTHER, ALIAS),
        hub.service.delete(OTHER, V1),
        hub.service.merge(OTHER, V1),
    ):
        with pytest.raises(NotFoundError, match="has no adapter of this name"):
            await call
    assert (await hub.service.get(ME, ALIAS)).is_promoted


async def test_name_of_another_tenant_is_as_good_as_none_also_when_nothing_is_promoted(hub: Hub) -> None:
    hub.publish()
    for adapter_id in (ALIAS, f"{ALIAS}@v7", f"{BASE}:nobody"):
        with pytest.raises(NotFoundError, match="has no adapter of this name"):
            await hub.service.rollback(OTHER, adapter_id)
    with pytest.raises(NotFoundError, match="has no adapter of this name"):
        await hub.service.delete(OTHER, f"{ALIAS}@v7")
    with pytest.raises(NotFoundError, match=r"shop has v1\."):
        await hub.service.get(ME, f"{ALIAS}@v7")
    with pytest.raises(ConflictError, match="nothing to go back"):
        await hub.service.rollback(ME, ALIAS)


async def test_damaged_promoted_adapter_is_rolled_back_and_deleted(hub: Hub, client: httpx.AsyncClient) -> None:
    hub.publish()
    hub.publish()
    for adapter_id in (V1, V2):
        await hub.service.promote(ME, adapter_id, force=True)
    folder = hub.store.get(V2).path
    (folder / WEIGHTS).unlink()
    refusal = await client.get(f"/api/v1/adapters/{ALIAS}")
    assert_refused(refusal, 409, code="adapter_damaged")
    assert str(hub.home) not in refusal.text
    rolled_back = await client.post("/api/v1/adapters/rollback", json={"adapter_id": ALIAS})
    assert rolled_back.json()["data"]["id"] == V1
    assert (await client.delete(f"/api/v1/adapters/{V2}")).json()["data"]["deleted"]
    await hub.settle()
    assert not folder.exists()


async def test_damaged_state_of_one_name_does_not_keep_the_hub_from_starting(hub: Hub) -> None:
    hub.publish()
    broken = hub.store.get(hub.publish(name="broken")).path.parent
    (broken / STATE).write_text("{", encoding="utf-8")
    hub.store.retire(V1)
    await hub.service.start()
    await hub.settle()
    assert hub.dropped == [(BASE, V1)]
    await hub.service.refresh()
    assert hub.service.published == ()


async def test_rollback_by_version_goes_back_from_that_version_only(hub: Hub) -> None:
    hub.publish()
    hub.publish()
    for adapter_id in (V1, V2):
        await hub.service.promote(ME, adapter_id, force=True)
    with pytest.raises(ConflictError, match=f"{V2} is. Name {ALIAS}"):
        await hub.service.rollback(ME, V1)
    assert (await hub.service.rollback(ME, V2)).id == V1
    assert [(adapter.adapter_id, adapter.is_promoted) for adapter in hub.service.published] == [(V2, False), (V1, True)]
    last = await hub.service.rollback(ME, ALIAS)
    assert (last.alias, last.id, last.adapter) == (ALIAS, None, None)


async def test_slow_look_at_the_disk_does_not_undo_a_later_one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish()
    read, began = hub.store.list, threading.Event()

    def read_slowly() -> Sequence[Adapter]:
        monkeypatch.setattr(hub.store, "list", read)
        found = read()
        began.set()
        time.sleep(0.1)
        return found

    monkeypatch.setattr(hub.store, "list", read_slowly)
    slow = asyncio.create_task(hub.service.refresh())
    await asyncio.to_thread(began.wait)
    await hub.service.promote(ME, V1, force=False)
    await slow
    assert [adapter.is_promoted for adapter in hub.service.published] == [True]


async def test_files_of_a_deleted_adapter_stay_until_the_engine_has_dropped_it(hub: Hub) -> None:
    hub.publish()
    folder = hub.store.get(V1).path
    hub.may_drop.clear()
    await hub.service.delete(ME, V1)
    assert hub.service.published == ()
    await asyncio.sleep(0.02)
    assert folder.is_dir()
    hub.may_drop.set()
    await hub.settle()
    assert hub.dropped == [(BASE, V1)]
    assert not folder.exists()


@pytest.mark.parametrize("ends", ["restart", "silence"])
async def test_deletion_that_was_cut_is_ended_at_the_next_start(hub: Hub, ends: str) -> None:
    hub.publish()
    folder = hub.store.get(V1).path
    if ends == "restart":
        hub.may_drop.clear()
    hub.is_engine_silent = ends == "silence"
    await hub.service.delete(ME, V1)
    await asyncio.sleep(0.02)
    await hub.service.close()
    assert folder.is_dir()
    hub.may_drop.set()
    hub.is_engine_silent = False
    hub.service = hub.new_service()
    await hub.service.start()
    await hub.settle()
    assert not folder.exists()


async def test_merging_says_what_stands_in_its_way(hub: Hub, tmp_path: Path) -> None:
    hub.publish()
    with pytest.raises(ConflictError, match="not installed any more"):
        await hub.service.merge(ME, V1)
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}), encoding="utf-8")
    hub.folders[BASE] = base
    with pytest.raises(ConflictError, match="are quantised"):
        await hub.service.merge(ME, V1)
    assert hub.refreshes == 0


@pytest.fixture
def mergeable(hub: Hub, tmp_path: Path) -> Path:
    """The base's folder, whose weights are a gibibyte that takes no disk."""
    hub.publish()
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}", encoding="utf-8")
    with (base / "model.safetensors").open("wb") as file:
        file.truncate(2**30)
    hub.folders[BASE] = base
    return base


async def test_merge_without_memory_or_disk_is_refused_with_figures(
    hub: Hub, client: httpx.AsyncClient, mergeable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.free_ram_bytes = 2**30
    refusal = await client.post("/api/v1/adapters/merge", json={"adapter_id": V1})
    assert_refused(refusal, 503, code="model_unavailable")
    assert "takes 2.0 GiB of memory, and 1.0 GiB are free" in refusal.json()["error"]["message"]
    assert int(refusal.headers["Retry-After"]) > 0
    usage = shutil.disk_usage(hub.home)._replace(free=2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refusal = await client.post("/api/v1/adapters/merge", json={"adapter_id": V1})
    assert_refused(refusal, 507, code="disk_full")
    assert "needs 1.1 GiB" in refusal.json()["error"]["message"]
    assert "has 0.5 GiB free" in refusal.json()["error"]["message"]
    assert list((hub.home / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("origin", "code", "words"),
    [
        ({"adapter_id": V1}, "already_merged", f"can be asked as {BASE}-shop-v1"),
        ({"adapter_id": "smollm2-135m:instruct-shop@v1"}, "model_name_taken", "another model has that name"),
        (None, "model_name_taken", "another model has that name"),
    ],
)
async def test_folder_in_the_way_is_told_from_an_earlier_merge(
    hub: Hub, mergeable: Path, origin: dict[str, str] | None, code: str, words: str
) -> None:
    target = hub.home / "models" / f"{BASE}-shop-v1"
    target.mkdir(parents=True)
    if origin is not None:
        assert merged_model_id(parse_adapter_id(origin["adapter_id"])) == target.name
        (target / ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
    with pytest.raises(ConflictError, match=words) as caught:
        await hub.service.merge(ME, V1)
    assert caught.value.code == code
    assert str(hub.home) not in caught.value.message


async def test_second_merge_at_the_same_time_is_sent_away(
    hub: Hub, client: httpx.AsyncClient, mergeable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = threading.Event(), threading.Event()

    def merge(_function: str, _base: Path, target: Path, _progress: Any, **_options: Any) -> None:
        began.set()
        may_end.wait(5)
        (target / "model.safetensors").write_bytes(b"merged")

    monkeypatch.setattr(merged_models, "run_in_subprocess", merge)
    first = asyncio.create_task(hub.service.merge(ME, V1))
    await asyncio.to_thread(began.wait, 5)
    refusal = await client.post("/api/v1/adapters/merge", json={"adapter_id": V1})
    assert_refused(refusal, 503, code="merge_running")
    assert int(refusal.headers["Retry-After"]) > 0
    may_end.set()
    assert (await first).model_id == f"{BASE}-shop-v1"
    assert hub.refreshes == 1
    with pytest.raises(ConflictError, match="merged already"):
        await hub.service.merge(ME, V1)


@pytest.mark.parametrize("base", ["smollm2-135m-instruct", "Org/Name.1:7b", "--", "x" * 200])
def test_merged_model_has_a_name_that_a_folder_may_have(base: str) -> None:
    name = merged_model_id(AdapterId(base, "a--b-", 12))
    assert ModelKey("local", name).name == name
    assert name.endswith("a-b-v12")


async def test_routes_promote_roll_back_and_delete(hub: Hub, client: httpx.AsyncClient) -> None:
    hub.publish()
    hub.publish(evaluation=report(current=2.5, current_id=V1))
    listed = (await client.get("/api/v1/adapters")).json()
    assert [item["id"] for item in listed["data"]["adapters"]] == [V2, V1]
    for adapter_id in (V1, V2):
        answer = await client.post("/api/v1/adapters/promote", json={"adapter_id": adapter_id})
        assert answer.json()["data"]["alias"] == ALIAS
    assert (await client.get(f"/api/v1/adapters/{ALIAS}")).json()["data"]["id"] == V2
    assert_refused(await client.delete(f"/api/v1/adapters/{V2}"), 409, code="adapter_promoted")
    rolled_back = await client.post("/api/v1/adapters/rollback", json={"adapter_id": ALIAS})
    assert (rolled_back.json()["data"]["alias"], rolled_back.json()["data"]["id"]) == (ALIAS, V1)
    deleted = await client.delete(f"/api/v1/adapters/{V2}")
    assert deleted.json()["data"] == {"id": V2, "object": "adapter", "deleted": True}
    assert_refused(await client.get(f"/api/v1/adapters/{V2}"), 404, code="adapter_not_found")


async def test_routes_refuse_a_worse_adapter_until_it_is_forced(hub: Hub, client: httpx.AsyncClient) -> None:
    hub.publish(evaluation=report(base=1.0, candidate=2.0))
    refusal = await client.post("/api/v1/adapters/promote", json={"adapter_id": V1})
    assert_refused(refusal, 409, code="adapter_worse")
    assert "its loss is 2.000, against 1.000" in refusal.json()["error"]["message"]
    forced = await client.post("/api/v1/adapters/promote", json={"adapter_id": V1, "force": True})
    assert forced.json()["data"]["is_promoted"]
    assert forced.json()["data"]["evaluation"]["objection"]


async def test_openai_clients_delete_a_fine_tuned_model_and_no_other(hub: Hub, client: httpx.AsyncClient) -> None:
    hub.publish()
    assert_refused(await client.delete("/v1/models/fake-chat"), 404, code="model_not_found")
    assert_refused(await client.delete(f"/v1/models/{ALIAS}"), 400, code="invalid_adapter_id")
    assert_refused(await client.delete(f"/v1/models/{ALIAS}@v9"), 404, code="adapter_not_found")
    answer = await client.delete(f"/v1/models/{V1}")
    assert answer.json() == {"id": V1, "object": "model", "deleted": True}


@pytest.mark.parametrize(
    ("base", "status"), [("x" * 300, 400), ("x" * 250, 404), ("ệ" * 100, 404), ("%E1%BB%87" * 100, 404), ("x" * 5000, 400)]
)
async def test_long_ids_in_paths_are_refused_or_not_found_and_tell_no_path(
    hub: Hub, client: httpx.AsyncClient, base: str, status: int
) -> None:
    for method, path in (("GET", "/api/v1/adapters"), ("DELETE", "/api/v1/adapters"), ("DELETE", "/v1/models")):
        answer = await client.request(method, f"{path}/{base}:a@v1")
        assert answer.status_code == status, answer.text
        assert str(hub.home) not in answer.text
        assert answer.json()["error"]["param"]


@pytest.mark.parametrize("body", [{}, {"adapter_id": ""}, {"adapter_id": "x", "typo": 1}, {"adapter_id": "nonsense"}])
async def test_routes_refuse_what_names_no_adapter(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    for verb in ("promote", "rollback", "merge"):
        answer = await client.post(f"/api/v1/adapters/{verb}", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
