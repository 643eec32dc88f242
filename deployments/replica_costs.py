"""Costs from an application with several replicas: a call over its handle reaches one of them, and each knows its own."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from aihub.usage.apportionment import Spent, TakenCosts
from deployments.ray_compat import call_replicas, read_replica_names
from deployments.work_ids import TAKE_COSTS

LOOK_PERIOD_S = 10.0
"""Between two questions to Serve's controller which replicas there are, while costs are asked for."""


class ReplicaCosts:
    """Asks all replicas of one application.

    Args:
        ask_one: Asks one replica over the handle, which is all there is to do where there is one.
    """

    def __init__(self, app_name: str, ask_one: Callable[[list[str]], Awaitable[TakenCosts]]) -> None:
        self._app_name = app_name
        self._ask_one = ask_one
        self._names: list[str] = []
        self._looked_s = float("-inf")

    async def take(self, work_ids: Collection[str]) -> TakenCosts:
        """Return what requests cost in all replicas together; those that one of them still works for are pending."""
        if time.monotonic() - self._looked_s > LOOK_PERIOD_S:
            self._looked_s = time.monotonic()
            self._names = await asyncio.to_thread(read_replica_names, self._app_name)
        if len(self._names) < 2:
            return await self._ask_one(list(work_ids))
        return merge_costs(await call_replicas(self._names, TAKE_COSTS, list(work_ids)))


def merge_costs(told: Collection[TakenCosts]) -> TakenCosts:
    """Add up what replicas told of the same requests."""
    spent: dict[str, Spent] = {}
    for taken in told:
        for work_id, cost in taken.spent.items():
            spent[work_id] = spent.get(work_id, Spent()).plus(cost)
    return TakenCosts(spent, frozenset().union(*(taken.pending for taken in told)))
