"""Deployments that measure what their calls cost, and tell it when the requests behind them have ended."""

import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import wraps
from typing import Any, TypeVar

from aihub.core.settings import Settings
from aihub.usage.apportionment import TakenCosts
from aihub.usage.cards import CardCounters
from aihub.usage.counters import ProcessCounters
from aihub.usage.meter import CostMeter
from deployments.service_client import methods_of
from deployments.work_ids import TAKE_COSTS, current_work

Deployment = TypeVar("Deployment", bound=type)

CARDS_FOLDER = "run/cards"
_UNMETERED = frozenset({"health"})


def metered(protocol: object) -> Callable[[Deployment], Deployment]:
    """Let a deployment measure its calls of a Protocol's methods, by the `CostMeter` that it keeps as `meter`.

    A call without a work id is not measured: what it uses is nobody's.
    """

    def extend(deployment: Deployment) -> Deployment:
        for name, is_stream in methods_of(protocol):
            if name not in _UNMETERED and hasattr(deployment, name):
                method = getattr(deployment, name)
                setattr(deployment, name, _metered_stream(method) if is_stream else _metered_call(method))
        if (metrics := getattr(deployment, "metrics", None)) is not None:
            # No Protocol names it, but the ingress asks for it through the same connection.
            deployment.metrics = _metered_call(metrics)  # type: ignore[attr-defined]  # it has one
        setattr(deployment, TAKE_COSTS, _take_costs)
        return deployment

    return extend


def new_meter(device: str = "cpu", **options: Any) -> CostMeter:
    """Return a meter of this process.

    Args:
        device: `cpu`, or a card (`cuda`, `cuda:<n>`), whose driver is asked from the first request on.
        options: Of `CostMeter`.
    """
    return CostMeter(ProcessCounters(None if device == "cpu" else CardCounters(Settings().home_path / CARDS_FOLDER)), **options)


async def _take_costs(self: Any, work_ids: Sequence[str]) -> TakenCosts:
    """Return the costs of requests that have ended, see `CostMeter.take`."""
    meter: CostMeter = self.meter
    return await meter.take(work_ids)


def _metered_call(method: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(method):
        raise TypeError(f"{method} is no coroutine function")

    @wraps(method)
    async def call(self: Any, *args: Any, work_id: str | None = None, **options: Any) -> Any:
        if work_id is None:
            return await method(self, *args, **options)
        current_work.set(work_id)
        with self.meter.measured(work_id):
            return await method(self, *args, **options)

    return call


def _metered_stream(method: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.isasyncgenfunction(method):
        raise TypeError(f"{method} is no asynchronous generator function")

    @wraps(method)
    async def stream(self: Any, *args: Any, work_id: str | None = None, **options: Any) -> AsyncGenerator[Any, None]:
        if work_id is None:
            async with aclosing(method(self, *args, **options)) as items:
                async for item in items:
                    yield item
            return
        current_work.set(work_id)
        share = self.meter.begin(work_id)
        try:
            async with aclosing(method(self, *args, **options)) as items:
                async for item in items:
                    yield item
        finally:
            self.meter.end(share)

    return stream
