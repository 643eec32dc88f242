"""What an ingress replica reports of its requests: seldom while there are none, at once when one begins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aihub.chat.history import EngineHistory
from aihub.core.errors import ModelUnavailableError
from aihub.core.health import PartHealth
from aihub.models.configuration import HubConfiguration
from aihub.models.memory.state import Directory, ReadyModel
from aihub.models.service import ModelsReport, ModelView
from deployments import model_directory
from deployments.model_directory import ModelDirectory

MODEL = "tiny"
PERIOD_S = 0.02


class FakeManager:
    """The connection to the `models` application."""

    def __init__(self) -> None:
        self.health = PartHealth("ok")
        self.state = "unloaded"
        self.reports: list[dict[str, int]] = []

    async def call(self, name: str, *args: Any) -> Any:
        if self.health.status == "down":
            raise ModelUnavailableError("It has died.")
        assert name == "report"
        self.reports.append(args[1])
        ready = {MODEL: ReadyModel(MODEL, 2048, 0)} if self.state == "ready" else {}
        view = ModelView(MODEL, self.state, False, None, (), (), 2048, 10, fits=True)
        return ModelsReport(Directory(1, ready, frozenset(), lease_s=4.0), (view,), HubConfiguration())


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> FakeManager:
    monkeypatch.setattr(model_directory, "REPORT_PERIOD_S", PERIOD_S)
    monkeypatch.setattr(model_directory, "QUIET_REPORT_PERIOD_S", 30.0)
    return FakeManager()


@asynccontextmanager
async def reporting(manager: FakeManager) -> AsyncIterator[ModelDirectory]:
    directory = ModelDirectory(
        manager,
        default_model=MODEL,
        history=EngineHistory(),
        configured=lambda _configuration: None,
        max_in_flight=8,
    )
    task = asyncio.create_task(directory.run())
    try:
        yield directory
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await directory.close()


async def until_reports(manager: FakeManager, count: int) -> None:
    async with asyncio.timeout(5):
        while len(manager.reports) < count:  # noqa: ASYNC110  # the manager has no event
            await asyncio.sleep(0.002)


async def test_nothing_is_asked_and_nothing_is_reported(manager: FakeManager) -> None:
    async with reporting(manager):
        await asyncio.sleep(10 * PERIOD_S)
        assert len(manager.reports) == 1


async def test_the_first_request_after_a_pause_is_reported_at_once_and_then_every_period_until_it_ends(
    manager: FakeManager,
) -> None:
    async with reporting(manager) as directory:
        await asyncio.sleep(5 * PERIOD_S)
        directory.note_begin(MODEL)
        await until_reports(manager, 4)
        assert manager.reports[1:4] == [{MODEL: 1}] * 3
        directory.note_end(MODEL)
        await asyncio.sleep(5 * PERIOD_S)
        assert manager.reports[-1] == {}
        count = len(manager.reports)
        await asyncio.sleep(5 * PERIOD_S)
        assert len(manager.reports) == count


@pytest.mark.parametrize("state", ["queued", "loading", "draining", "unloading"])
async def test_a_model_that_changes_is_followed_every_period(manager: FakeManager, state: str) -> None:
    manager.state = state
    async with reporting(manager):
        await until_reports(manager, 5)


async def test_a_manager_that_has_died_is_asked_every_period_until_it_is_back(manager: FakeManager) -> None:
    async with reporting(manager) as directory:
        await asyncio.sleep(5 * PERIOD_S)
        manager.health = PartHealth("down", "its replica died")
        directory.note_begin(MODEL)
        directory.note_end(MODEL)
        await asyncio.sleep(5 * PERIOD_S)
        manager.health = PartHealth("ok")
        await until_reports(manager, 2)


def test_the_quiet_period_is_shorter_than_the_lease_of_a_directory() -> None:
    from aihub.models.memory.ledger import MemoryLedger
    from aihub.models.memory.manager_state import LifecyclePolicy, ManagerState

    lease_s = ManagerState(MemoryLedger({}), LifecyclePolicy()).directory().lease_s
    assert model_directory.QUIET_REPORT_PERIOD_S < lease_s
