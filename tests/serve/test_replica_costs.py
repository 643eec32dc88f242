"""Costs from a deployment of two real replicas, each of which knows its own calls only."""

import asyncio
from typing import Any, Protocol

import pytest
from ray import serve

from aihub.core.health import PartHealth
from aihub.core.request_record import RequestRecord, current_record
from deployments.handles import AppConnection
from deployments.metering import metered, new_meter
from deployments.ray_compat import read_replica_names
from deployments.request_costs import RequestCosts

APP = "burner"
CALLS, BURN_S = 12, 0.05


class Burner(Protocol):
    async def burn(self, seconds: float) -> int: ...


@metered(Burner)
class BurningReplica:
    async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
        self.meter = new_meter()

    async def burn(self, seconds: float) -> int:
        """Use a core for a while; returns the process that did."""
        import os
        import time

        await asyncio.sleep(0.1)  # so that calls overlap
        end_s = time.process_time() + seconds
        while time.process_time() < end_s:
            pass
        return os.getpid()

    async def health(self) -> PartHealth:
        return PartHealth("ok")


@pytest.mark.usefixtures("ray_cluster")
async def test_all_replicas_tell_what_a_request_cost_and_the_sum_is_what_was_used() -> None:
    options: dict[str, Any] = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0}, "name": "Burner"}
    deployment = serve.deployment(BurningReplica, **options)
    await asyncio.to_thread(serve.run, deployment.bind(), name=APP, route_prefix=None)
    connection = AppConnection(APP, "The burner", is_metered=True)
    connection.start()
    try:
        await connection.wait_until_up(30)
        assert len(await asyncio.to_thread(read_replica_names, APP)) == 2
        costs, record = RequestCosts(new_meter()), RequestRecord()
        current_record.set(record)
        workers = await asyncio.gather(*(connection.call("burn", BURN_S) for _ in range(CALLS)))
        current_record.set(None)
        assert len(set(workers)) == 2
        async with asyncio.timeout(5):
            while not (known := await costs.costs([record])):  # noqa: ASYNC110  # it is asked for
                await asyncio.sleep(0.1)
        cpu_s = known[record.work_id].cpu_s
        assert cpu_s is not None
        assert CALLS * BURN_S * 0.9 < cpu_s < CALLS * BURN_S + 1.0
    finally:
        await connection.close()
        await asyncio.to_thread(serve.delete, APP)
