"""What the ingress says of the default model's health."""

from dataclasses import replace
from typing import Any

import pytest

from aihub.chat.history import EngineHistory
from aihub.core.errors import NotFoundError
from aihub.core.health import PartHealth
from aihub.core.principal import Principal
from aihub.models.configuration import HubConfiguration
from aihub.models.memory.state import Directory, ReadyModel
from aihub.models.service import ModelsReport, ModelView
from deployments import model_directory
from deployments.model_directory import CONNECT_TIMEOUT_S, ModelDirectory

VIEW = ModelView("m", "unloaded", False, None, ("chat",), ("en",), 4096, 1, True)
LOST = PartHealth("down", "its replica died; Serve starts a new one")


class Connection:
    """A connection whose replica does what the test says; `report` is what the model manager answers."""

    report: ModelsReport
    of_model: "Connection"

    def __init__(self, *_: object, **__: object) -> None:
        self.is_new = True
        self.health = PartHealth("down", "starting")
        Connection.of_model = self

    def start(self) -> None:
        """Nothing to probe."""

    async def call(self, *_: object) -> ModelsReport:
        return Connection.report


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> ModelDirectory:
    monkeypatch.setattr(model_directory, "AppConnection", Connection)
    models: Any = Connection()
    return ModelDirectory(models, default_model="m", history=EngineHistory(), configured=lambda _: None, max_in_flight=4)


async def health_with(directory: ModelDirectory, **changes: Any) -> PartHealth:
    """The part `llm` after a report in which the default model is like that."""
    view = replace(VIEW, **changes)
    ready = {"m": ReadyModel("m", 4096, 0)} if view.state == "ready" else {}
    Connection.report = ModelsReport(Directory(1, ready, frozenset(), 4.0), (view,), HubConfiguration())
    await directory._tell()
    return directory.health()


@pytest.mark.parametrize("state", ["unloaded", "sleeping", "unloading"])
async def test_model_that_its_next_request_loads_is_ok_and_idle(directory: ModelDirectory, state: str) -> None:
    assert await health_with(directory, state=state) == PartHealth("ok", "idle: loads on the next request")


@pytest.mark.parametrize("state", ["queued", "loading"])
async def test_model_that_a_request_loads_is_ok_and_one_that_a_start_loads_is_down(directory: ModelDirectory, state: str) -> None:
    assert (await health_with(directory, state=state)).status == "ok"
    assert await health_with(directory, state=state, is_starting=True) == PartHealth("down", f"m is {state}")


@pytest.mark.parametrize("state", ["failed", "queued", "unloaded"])
async def test_failure_is_told_until_the_model_is_ready(directory: ModelDirectory, state: str) -> None:
    health = await health_with(directory, state=state, failure="no kernel for this card", is_starting=True)
    assert health == PartHealth("down", "failed: no kernel for this card")


async def test_model_that_cannot_fit_is_down_for_good(directory: ModelDirectory) -> None:
    health = await health_with(directory, fits=False)
    assert health.status == "down"
    assert (health.reason or "").startswith("failed: m needs more memory")


async def test_model_newer_than_the_last_report_is_found_and_one_that_nobody_has_is_not(directory: ModelDirectory) -> None:
    await health_with(directory)
    newer = (VIEW, replace(VIEW, model_id="newer", state="failed", failure="no kernel for this card"))
    Connection.report = ModelsReport(Directory(2, {}, frozenset(), 4.0), newer, HubConfiguration())
    await directory.require(Principal(), "newer")
    with pytest.raises(NotFoundError, match="m, newer"):
        await directory.require(Principal(), "nobody")


async def test_nothing_heard_yet_and_an_unknown_model_are_down(directory: ModelDirectory) -> None:
    assert directory.health() == PartHealth("down", "starting")
    Connection.report = ModelsReport(Directory(1, {}, frozenset(), 4.0), (), HubConfiguration())
    await directory._tell()
    assert directory.health() == PartHealth("down", "m is not installed")


async def test_model_that_became_ready_is_ok_until_its_replica_must_have_answered(
    directory: ModelDirectory,
) -> None:
    assert (await health_with(directory, state="ready")).status == "ok"
    directory._connected_s["m"] -= CONNECT_TIMEOUT_S
    assert (await health_with(directory, state="ready")).status == "down"


async def test_ready_model_is_as_its_replica_says(directory: ModelDirectory) -> None:
    await health_with(directory, state="ready")
    Connection.of_model.is_new, Connection.of_model.health = False, PartHealth("ok")
    assert directory.health() == PartHealth("ok")
    Connection.of_model.health = LOST
    assert directory.health() == LOST


@pytest.mark.parametrize("state", ["ready", "unloaded"])
async def test_models_that_see_are_told_apart_before_they_are_loaded(directory: ModelDirectory, state: str) -> None:
    await health_with(directory, state=state, types=("chat", "vision"), max_images=16)
    assert [(model_info.model_id, model_info.max_images) for model_info in await directory.list(Principal())] == [("m", 16)]
