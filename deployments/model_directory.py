"""The ingress's view of local models: which can be asked, connections to those, and reports of what is asked."""

import asyncio
import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aihub.chat.history import EngineHistory
from aihub.chat.routing import ModelCandidate
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import HubError, NotFoundError, OverloadedError
from aihub.core.health import PartHealth
from aihub.core.principal import Principal
from aihub.finetuning.adapter_ids import find_adapter_id
from aihub.models.configuration import HubConfiguration
from aihub.models.service import AdapterView, ModelManager, ModelsReport
from deployments.handles import AppConnection
from deployments.llm_app import app_name
from deployments.local_engine import LocalEngine
from deployments.model_report import adapter_of, identify_model, list_candidates, list_models
from deployments.service_client import engine_client, service_client
from pipelines.answer_basis import ModelIdentity
from pipelines.chat import model_not_found
from pipelines.fair_turn import ModelTurns
from pipelines.load_wait import LoadWait

logger = logging.getLogger(__name__)

REPORT_PERIOD_S = 1.0
QUIET_REPORT_PERIOD_S = 3.0
"""While no model is asked or changes; below the lease of the directory, so that the next request needs no other permission."""
_AT_REST = frozenset({"ready", "sleeping", "unloaded", "failed"})
CONNECT_TIMEOUT_S = 10.0


class ModelDirectory:
    """Implements `pipelines.chat.EngineDirectory` over the models of this cluster.

    Requests to a ready model go straight to its application; any other installed model is loaded first, through the
    `models` application. It tells that application what it has in flight, every second or at the begin of the first request
    after a pause, so that no busy model is unloaded.

    Args:
        models: Connection to the `models` application.
        default_model: Whose state is the state of the part `llm`.
        history: Speeds seen lately, reported on.
        configured: Called when the run-time settings have changed.
        max_in_flight: Requests one model may hold, its queue included; more are refused before they cost anything.
        turns: Who may go on to a model when; without them all at once.
    """

    def __init__(
        self,
        models: AppConnection,
        *,
        default_model: str,
        history: EngineHistory,
        configured: Callable[[HubConfiguration], None],
        max_in_flight: int,
        turns: ModelTurns | None = None,
    ) -> None:
        self._max_in_flight = max_in_flight
        self._turns = turns
        self._models = models
        self._manager = service_client(ModelManager, models)
        self._default_model = default_model
        self._history = history
        self._configured = configured
        self._client_id = uuid.uuid4().hex
        self._in_flight: Counter[str] = Counter()
        self._used: set[str] = set()
        self._begun = asyncio.Event()
        self._told_of_requests = False
        self._report: ModelsReport | None = None
        self._reported_s = float("-inf")
        self._connections: dict[str, AppConnection] = {}
        self._connected_s: dict[str, float] = {}
        self._engines: dict[str, ChatEngine] = {}

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            with contextlib.suppress(HubError):  # The state of the connection says so; the next report tries again.
                await self._tell()
            await asyncio.sleep(REPORT_PERIOD_S)
            if self._is_quiet():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(QUIET_REPORT_PERIOD_S - REPORT_PERIOD_S):
                        await self._begun.wait()

    async def close(self) -> None:
        """Let go of every connection."""
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        """Return the engine of a model or adapter, loading the model first where needed; the wait for that is noted in `wait`.

        Raises:
            NotFoundError: No such local model or adapter (`model_not_found`).
            ModelUnavailableError: It cannot be loaded, or not in time.
            OverloadedError: Too many requests wait for models.
        """
        adapter = await self._find_adapter(principal, model_id)
        base, adapter_id = (model_id, None) if adapter is None else (adapter.base, adapter.adapter_id)
        engine = await self._resolve(base, wait, model_id, adapter_id)
        if self._turns is not None:
            await self._turns.take(base, wait)
        return engine.for_tenant(principal.tenant_id)

    async def identify(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, is_fresh: bool = False
    ) -> ModelIdentity | None:
        """Return the model or adapter of a name by the last report; None where that may be too old to act on."""
        asked_s = asyncio.get_running_loop().time()
        if is_fresh:
            await self.refresh()
        report = self._report
        if report is None or not self._is_current(report) or is_fresh and self._reported_s < asked_s:
            return None
        return identify_model(report, model_id, await self._find_adapter(principal, model_id))

    async def require(self, principal: Principal, model_id: str) -> None:
        """Raise `NotFoundError` (`model_not_found`) where there is no such model or adapter; nothing is loaded.

        Where nothing is known of the models yet, nothing is raised.
        """
        if self._knows(model_id):
            return
        await self.refresh()  # it may be newer than the last report
        if not self._knows(model_id) and self._report is not None and await self._find_adapter(principal, model_id) is None:
            raise model_not_found(model_id, [view.model_id for view in self._report.models])

    def _knows(self, model_id: str) -> bool:
        report = self._report
        return report is not None and any(view.model_id == model_id for view in report.models)

    async def _resolve(self, model_id: str, wait: LoadWait | None, asked: str, adapter_id: str | None = None) -> LocalEngine:
        report = self._report
        if report is not None and model_id in report.directory.ready and self._is_current(report):
            return await self._engine(model_id, adapter_id)
        wait = wait or LoadWait()
        try:
            self._begun.set()
            with wait.noted(model_id, partial(self._awaited_state, model_id)):
                await self._manager.ensure(model_id, wait.limit_s)
        except NotFoundError as error:
            known = [view.model_id for view in report.models] if report is not None else []
            raise model_not_found(asked, known) from error
        return await self._engine(model_id, adapter_id)

    async def _find_adapter(self, principal: Principal, name: str) -> AdapterView | None:
        """Return the adapter of an id or alias; None for a model's name, which comes first, and for one that nobody has."""
        report = self._report
        asked = find_adapter_id(name)
        if report is None or asked is None or any(view.model_id == name for view in report.models):
            return None
        found = adapter_of(principal, name, report.adapters)
        if found is None and any(view.model_id == asked.base for view in report.models):
            # Published or promoted since the last report.
            found = adapter_of(principal, name, await self._manager.adapters())
        return found

    async def refresh(self) -> None:
        """Hear now what has changed; without it, with the next report."""
        with contextlib.suppress(HubError):
            await self._tell()

    async def candidates(self) -> list[ModelCandidate]:
        """Return what routing must know of each local model."""
        return list_candidates(self._report) if self._report is not None else []

    async def list(self, principal: Principal) -> list[ChatModelInfo]:
        """Return what can be asked: loaded models first, then those that their first request loads, then their adapters."""
        return list_models(self._report, principal, self._default_model) if self._report is not None else []

    def health(self) -> PartHealth:
        """State of the default model. One that is not loaded is fine, as its next request loads it; so is that load.

        `down` is a model that cannot be had, and one that a start of the hub is loading.
        """
        if self._report is None:
            return PartHealth("down", "starting")
        view = next((view for view in self._report.models if view.model_id == self._default_model), None)
        if view is None:
            return PartHealth("down", f"{self._default_model} is not installed")
        if view.state in {"ready", "draining"}:
            return self._health_of(view.model_id)
        if view.failure is not None:
            return PartHealth("down", f"failed: {view.failure}")
        if view.is_starting:
            return PartHealth("down", f"{view.model_id} is {view.state}")
        if not view.fits:
            return PartHealth("down", f"failed: {view.model_id} needs more memory than models may take here; see `aihub plan`")
        if view.state in {"loading", "queued"}:
            return PartHealth("ok", "loading: requests wait for it")
        return PartHealth("ok", "idle: loads on the next request")

    async def look(self) -> PartHealth:
        """State of the default model, by probes that are fresh."""
        await asyncio.gather(*(connection.look() for connection in self._connections.values()))
        return self.health()

    def note_begin(self, model_id: str) -> None:
        """Count a request handed to a model.

        Raises:
            OverloadedError: It holds as many as it may.
        """
        if self._in_flight[model_id] >= self._max_in_flight:
            raise OverloadedError(f"The model {model_id} is busy: its queue is full. Retry in a second.")
        self._in_flight[model_id] += 1
        self._used.add(model_id)
        self._begun.set()

    def note_end(self, model_id: str) -> None:
        """Count it out again."""
        self._in_flight[model_id] -= 1

    def _awaited_state(self, model_id: str) -> str | None:
        """State of a model by the last report; None for one that is ready or unknown there."""
        models = self._report.models if self._report is not None else ()
        return next((view.state for view in models if view.model_id == model_id and view.state != "ready"), None)

    def _is_quiet(self) -> bool:
        """Whether nothing is asked of any model and none changes, as far as is known here."""
        if self._used or self._told_of_requests or +self._in_flight or self._report is None or self._models.health.status != "ok":
            return False
        return all(view.state in _AT_REST for view in self._report.models)

    async def _tell(self) -> None:
        self._begun.clear()
        in_flight = dict(+self._in_flight)
        used, self._used = self._used, set()
        version = self._report.directory.version if self._report is not None else 0
        speeds = {name: speed for name in used if (speed := self._history.of(name).tokens_per_s) is not None}
        try:
            report = await self._manager.report(self._client_id, in_flight, used, version, speeds)
        except HubError:
            self._used |= used
            raise
        self._told_of_requests = bool(in_flight)
        if self._report is None or report.configuration != self._report.configuration:
            self._configured(report.configuration)
        self._report, self._reported_s = report, asyncio.get_running_loop().time()
        for model_id in report.directory.ready:
            self._connection(model_id)
        for model_id in self._connections.keys() - report.directory.ready.keys():
            if not self._in_flight[model_id]:
                self._engines.pop(model_id, None)
                await self._connections.pop(model_id).close()

    def _is_current(self, report: ModelsReport) -> bool:
        """Whether the directory may be acted on: fresh enough, or nobody is there who could have changed anything."""
        age_s = asyncio.get_running_loop().time() - self._reported_s
        return age_s < report.directory.lease_s or self._models.health.status == "down"

    def _health_of(self, model_id: str) -> PartHealth:
        """State of a ready model's replica; a connection made a moment ago has not heard of it yet."""
        connection = self._connection(model_id)
        age_s = asyncio.get_running_loop().time() - self._connected_s[model_id]
        if connection.is_new and age_s < CONNECT_TIMEOUT_S:
            return PartHealth("ok", "loading: requests wait for it")
        return connection.health

    def _connection(self, model_id: str) -> AppConnection:
        if model_id not in self._connections:
            connection = AppConnection(app_name(model_id), f"The model {model_id}", holds_engine=True, is_metered=True)
            connection.start()
            self._connections[model_id] = connection
            self._connected_s[model_id] = asyncio.get_running_loop().time()
        return self._connections[model_id]

    async def _engine(self, model_id: str, adapter_id: str | None) -> LocalEngine:
        connection = self._connection(model_id)
        if connection.is_new:
            await connection.wait_until_up(CONNECT_TIMEOUT_S)
        if model_id not in self._engines:
            self._engines[model_id] = engine_client(connection)
        return LocalEngine(self._engines[model_id], model_id, self, adapter_id)
