"""When answers kept of a local model stand for it: what its name stands for, as the models' application tells it."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aihub.chat.history import EngineHistory
from aihub.core.errors import ModelUnavailableError, NotFoundError
from aihub.core.principal import Principal
from aihub.models.keys import ModelKey
from aihub.models.memory.fingerprint import read_fingerprint
from aihub.models.memory.status import ModelStatus
from aihub.models.schemas import GenerationDefaults
from aihub.models.service import AdapterView
from deployments import model_directory
from deployments.model_directory import ModelDirectory
from deployments.model_versions import ModelVersions
from deployments.service_client import adapters_client, lifecycle_client, registry_client
from pipelines.answer_basis import ModelIdentity
from tests.unit.deployments.test_directory_adapters import FIRST, SECOND, Cluster
from tests.unit.deployments.test_model_directory import VIEW

CALLER = Principal()


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text('{"a": 1}', encoding="utf-8")
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_a_fingerprint_stays_until_a_file_or_a_setting_changes(tmp_path: Path) -> None:
    model = folder(tmp_path / "m")
    first = read_fingerprint(model, "digest", 4096)
    assert read_fingerprint(model, "digest", 4096) == first
    seen = {first, read_fingerprint(model, "other", 4096), read_fingerprint(model, "digest", 2048)}
    (model / "model.safetensors").write_bytes(b"WEIGHTS")  # as long as before
    os.utime(model / "model.safetensors", ns=(1, 1))
    seen.add(read_fingerprint(model, "digest", 4096))
    (model / "generation_config.json").write_text("{}", encoding="utf-8")
    seen.add(read_fingerprint(model, "digest", 4096))
    assert len(seen) == 5


def status(fingerprint: str = "f1") -> ModelStatus:
    values = dict.fromkeys(ModelStatus.__dataclass_fields__)
    return ModelStatus(**(values | {"model_id": "m", "fingerprint": fingerprint}))  # type: ignore[arg-type]  # the other fields are not read


async def test_a_version_changes_with_the_model_in_memory_and_with_its_defaults() -> None:
    defaults: dict[str, Any] = {"temperature": 0.5, "top_p": 1.0}
    versions = ModelVersions(lambda _: dict(defaults))
    assert versions.of(status()) == ""
    await versions.refresh(["m"])
    first = versions.of(status())
    assert first
    assert versions.of(status("f2")) not in {"", first}
    assert versions.of(status("")) == ""
    async with versions.changing("m"):
        defaults["temperature"] = 0.0
        assert versions.of(status()) == ""
        await versions.refresh(["m"])
        assert versions.of(status()) == ""
    second = versions.of(status())
    assert second not in {"", first}
    with pytest.raises(ModelUnavailableError):
        async with versions.changing("m"):
            raise ModelUnavailableError("The engine gives no answer.")
    assert versions.of(status()) == second
    defaults["temperature"] = 0.5
    await versions.refresh(["m"])
    assert versions.of(status()) == first


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.views = (replace(VIEW, version="v1"),)
    return made


@pytest.fixture
async def directory(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> ModelDirectory:
    monkeypatch.setattr(model_directory, "AppConnection", lambda *_, **__: cluster)
    models: Any = cluster
    return ModelDirectory(models, default_model="m", history=EngineHistory(), configured=lambda _: None, max_in_flight=5)


async def test_nothing_is_known_before_the_first_report(directory: ModelDirectory) -> None:
    assert await directory.identify(CALLER, "m") is None


async def test_a_model_is_told_by_the_version_of_the_last_report(directory: ModelDirectory, cluster: Cluster) -> None:
    await directory.refresh()
    calls = len(cluster.calls)
    assert await directory.identify(CALLER, "m") == ModelIdentity("m", "local", "v1")
    assert len(cluster.calls) == calls
    cluster.views = (replace(VIEW, version="v2"),)
    assert await directory.identify(CALLER, "m", is_fresh=True) == ModelIdentity("m", "local", "v2")
    assert await directory.identify(CALLER, "m") == ModelIdentity("m", "local", "v2")
    cluster.views = (replace(VIEW, version=""),)
    assert await directory.identify(CALLER, "m", is_fresh=True) is None
    with pytest.raises(NotFoundError):
        await directory.identify(CALLER, "unknown")


async def test_an_alias_is_the_version_that_is_promoted(directory: ModelDirectory, cluster: Cluster) -> None:
    await directory.refresh()
    first = await directory.identify(CALLER, "m:shop")
    assert first == await directory.identify(CALLER, "m:shop@v1")
    promoted: tuple[AdapterView, ...] = (replace(FIRST, alias=None), replace(SECOND, alias="m:shop"))
    cluster.adapters = promoted
    second = await directory.identify(CALLER, "m:shop", is_fresh=True)
    assert second is not None
    assert second.model_id == "m:shop@v2"
    assert await directory.identify(CALLER, "m:shop@v1") == first
    cluster.adapters = (FIRST, SECOND)  # rolled back
    assert await directory.identify(CALLER, "m:shop", is_fresh=True) == first
    cluster.adapters = (replace(FIRST, created=99),)  # deleted, and published anew under the same name
    assert await directory.identify(CALLER, "m:shop", is_fresh=True) != first
    cluster.views = (replace(VIEW, version="v2"),)
    assert await directory.identify(CALLER, "m:shop@v1", is_fresh=True) != first


async def test_an_old_report_tells_nothing(directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    await directory.refresh()
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now_s + 5.0)
    assert await directory.identify(CALLER, "m") is None
    monkeypatch.setattr(loop, "time", lambda: now_s + 1.0)
    assert await directory.identify(CALLER, "m") is not None


async def test_news_that_cannot_be_had_are_no_news(directory: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    await directory.refresh()

    async def fail(*_: Any, **__: Any) -> None:
        raise ModelUnavailableError("The model manager is not available now.")

    monkeypatch.setattr(directory._manager, "report", fail)
    assert await directory.identify(CALLER, "m", is_fresh=True) is None
    assert await directory.identify(CALLER, "m") is not None


async def test_a_change_that_this_replica_passes_on_counts_for_its_next_request(
    directory: ModelDirectory, cluster: Cluster
) -> None:
    connection: Any = cluster
    changes = (
        lifecycle_client(connection, directory.refresh).update_generation_config("m", GenerationDefaults(temperature=0.5)),
        registry_client(connection, "registry_", directory.refresh).rollback(ModelKey("hf", "a/b")),
        adapters_client(connection, "adapters_", directory.refresh).promote(CALLER, "m:shop@v2"),
    )
    for number, change in enumerate(changes):
        cluster.views = (replace(VIEW, version=f"v{number}"),)
        await change
        assert await directory.identify(CALLER, "m") == ModelIdentity("m", "local", f"v{number}")
