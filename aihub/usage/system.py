"""`/api/v1/system/metrics`: the figures of the machine, of models and of tenants, gathered at the same time."""

import asyncio
import logging
import platform
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from aihub.core.errors import HubError
from aihub.models.service import LifecycleService
from aihub.usage import machine
from aihub.usage.system_schemas import ModelFigures, PeriodFigures, SystemReport, TenantFigures
from aihub.usage.tables.recent_usage import RecentUsage, RecentUsageTable

logger = logging.getLogger(__name__)

PART_TIMEOUT_S = 0.4
"""For each part; all are asked at the same time, and the whole answers within half a second."""
MOST_TENANTS = 100


class SystemMetrics:
    """Implements `aihub.usage.service.SystemService`.

    Nothing is kept between two questions, and nothing runs beside them. A part that is away or slow is left out, with the
    reason; a slow one is asked again only when it has answered.

    Args:
        lifecycle: Tells of local models.
        recent: Tells of tenants.
        folder: State folder.
    """

    def __init__(self, lifecycle: LifecycleService, recent: RecentUsageTable, folder: Path) -> None:
        self._lifecycle = lifecycle
        self._recent = recent
        self._parts: dict[str, Callable[[], Awaitable[Any]]] = {
            "cpu": partial(asyncio.to_thread, machine.ProcessorReader().read),
            "memory": partial(asyncio.to_thread, machine.read_memory),
            "disk": partial(asyncio.to_thread, machine.read_disk, folder),
            "gpus": partial(asyncio.to_thread, machine.read_cards),
            "process": partial(asyncio.to_thread, machine.read_process),
            "models": self._read_models,
            "tenants": self._read_tenants,
        }
        self._asking: dict[str, asyncio.Task[Any]] = {}

    async def report(self) -> SystemReport:
        """Return the figures of now; see `SystemService`."""
        tasks = {name: self._ask(name) for name in self._parts}
        await asyncio.wait(tasks.values(), timeout=PART_TIMEOUT_S)
        figures: dict[str, Any] = dict.fromkeys(tasks)
        missing: dict[str, str] = {}
        for name, task in tasks.items():
            if not task.done():
                missing[name] = f"no answer within {PART_TIMEOUT_S:g} s"
            elif (error := task.exception()) is None:
                figures[name] = task.result()
            else:
                missing[name] = _reason(name, error)
        return SystemReport(at=datetime.now(UTC), node=platform.node(), missing=missing, **figures)

    def _ask(self, name: str) -> "asyncio.Task[Any]":
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.ensure_future(self._parts[name]())
            task.add_done_callback(partial(self._forget, name))
        return task

    def _forget(self, name: str, task: "asyncio.Task[Any]") -> None:
        del self._asking[name]
        if not task.cancelled():
            task.exception()  # taken, also where nobody waits for it any more

    async def _read_models(self) -> list[ModelFigures]:
        status = await self._lifecycle.status()
        return [
            ModelFigures(
                model_id=model.model_id,
                state=str(model.state),
                device=model.device,
                memory_bytes=model.used_bytes,
                in_flight=model.in_flight,
                waiting=model.waiting,
                tokens_per_s=model.tokens_per_s,
            )
            for model in status.models
        ]

    async def _read_tenants(self) -> list[TenantFigures]:
        now = datetime.now(UTC)
        rows = await self._recent.read(minute=now - timedelta(minutes=1), hour=now - timedelta(hours=1), most=MOST_TENANTS)
        return [_tenant(row) for row in rows]


def _tenant(row: RecentUsage) -> TenantFigures:
    return TenantFigures(
        tenant=row.tenant_id,
        last_minute=PeriodFigures(
            requests=row.minute_requests,
            prompt_tokens=row.minute_prompt_tokens,
            completion_tokens=row.minute_completion_tokens,
        ),
        last_hour=PeriodFigures(
            requests=row.hour_requests, prompt_tokens=row.hour_prompt_tokens, completion_tokens=row.hour_completion_tokens
        ),
    )


def _reason(name: str, error: BaseException) -> str:
    if isinstance(error, HubError):
        return error.message
    logger.warning("The figures of %s could not be read.", name, exc_info=error)
    return "it could not be read; the log says why"
