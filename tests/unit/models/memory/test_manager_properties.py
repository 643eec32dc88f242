"""Random sequences on a fake device: no budget is exceeded, no busy model is stopped or put to sleep, nothing deadlocks.

`FakeHost` notes when a device runs out of memory, two starts or wakes overlap on it, a model is stopped or put to sleep with
requests in flight or a request reaches a model that is gone or asleep; `VirtualTimeLoop` raises when nothing can ever happen.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.core.errors import ConflictError, OverloadedError, UnavailableError
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.state import ModelState
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, Hub, running_hub, spec
from tests.unit.models.memory.virtual_time import VirtualTimeLoop

BUDGET_GIB = 10
SPECS = (
    spec("a", 6),
    spec("b", 6),
    spec("c", 3),
    spec("d", 9),
    spec("g", 7, device="cuda:0"),
    spec("h", 5, device="cuda:0"),
    spec("huge", 20),
)
ACTIONS = st.tuples(
    st.sampled_from(
        "infer infer infer load reload sleep full pin unpin fail fail_sleep fail_wake lose cancel leave_load leave_sleep".split()
    ),
    st.sampled_from([one.model_id for one in SPECS]),
    st.sampled_from([0, 1]),
    st.sampled_from([0.0, 0.3, 1.1, 4.0, 15.0]),
    st.sampled_from([0.1, 2.0, 20.0]),
)


PATIENCE_S = {"cancel": 3.0, "leave_load": 2.0, "leave_sleep": 0.7}
"""Callers that leave."""


async def act(hub: Hub, action: str, model_id: str, client: int, duration_s: float) -> None:
    """One action; refusals that the API would tell a client are fine, anything else is a failure."""
    lifecycle, host = hub.lifecycle, hub.host
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "infer": lambda: hub.clients[client].ask(model_id, duration_s),
        "cancel": lambda: hub.clients[client].ask(model_id, duration_s),
        "load": lambda: lifecycle.load(model_id),
        "leave_load": lambda: lifecycle.load(model_id),
        "reload": lambda: lifecycle.load(model_id, force_reload=True),
        "sleep": lambda: lifecycle.unload(model_id),
        "leave_sleep": lambda: lifecycle.unload(model_id),
        "full": lambda: lifecycle.unload(model_id, "full"),
        "pin": lambda: lifecycle.pin(model_id),
        "unpin": lambda: lifecycle.unpin(model_id),
    }
    failures = {"fail": host.failures, "fail_sleep": host.sleep_failures, "fail_wake": host.wake_failures}
    if action in failures:
        failures[action].setdefault(model_id, []).append(ValueError("broken"))
    elif action == "lose":
        if not host.active[model_id] and model_id in host.specs:
            host.lose(model_id)
    else:
        try:
            async with asyncio.timeout(PATIENCE_S.get(action, 5000.0)):
                await calls[action]()
        except (UnavailableError, OverloadedError, ConflictError) as error:
            assert error.message
        except TimeoutError:
            assert action in PATIENCE_S


async def be_quiet(hub: Hub) -> None:
    """Return when no model is changing."""
    moving = {ModelState.LOADING, ModelState.DRAINING, ModelState.UNLOADING, ModelState.QUEUED}
    while any(model.state in moving for model in (await hub.lifecycle.status()).models):
        await hub.lifecycle._manager_state.changed.wait(0.2)


async def run_sequence(
    actions: list[tuple[str, str, int, float, float]], limit: int, unload_s: float, restart_after: int
) -> None:
    """Run the actions, with a restart of the lifecycle, but not of its models, in between."""
    policy = replace(
        POLICY,
        first_backoff_s=2.0,
        max_backoff_s=8.0,
        room_timeout_s=60.0,
        min_residency_s=8.0,
        max_waiting_requests=4,
        max_concurrent_models=limit,
        unload_timeout_s=unload_s,
        sleep_timeout_s=20.0,
        sleep_margin_bytes=0,
        poll_s=0.5,
    )
    host = FakeHost({"cpu": BUDGET_GIB * GIB, "cuda:0": BUDGET_GIB * GIB}, start_s=6.0)
    async with running_hub(*SPECS, budget_gib=BUDGET_GIB, host=host, policy=policy, clients=2) as hub:
        await run_actions(hub, actions[:restart_after], limit)
        await be_quiet(hub)
    desired = hub.desired.desired
    async with running_hub(*SPECS, budget_gib=BUDGET_GIB, host=host, policy=policy, desired=desired, clients=2) as hub:
        for model in (await hub.lifecycle.status()).models:
            assert (model.model_id in host.sleepers) == (model.state == "sleeping")
        await run_actions(hub, actions[restart_after:], limit)
        for one in SPECS:
            await hub.lifecycle.unpin(one.model_id)
            hub.host.failures.clear()
        await be_quiet(hub)  # a load whose caller has left may still fail
        await asyncio.sleep(10)  # all pauses after failures are over
        for model_id in ("c", "g"):
            await hub.clients[0].ask(model_id)  # and it still works
    assert host.broken_promises == []
    assert max(host.most_used_bytes.values()) <= BUDGET_GIB * GIB


async def run_actions(hub: Hub, actions: list[tuple[str, str, int, float, float]], limit: int) -> None:
    tasks = []
    for action, model_id, client, pause_s, duration_s in actions:
        tasks.append(asyncio.create_task(act(hub, action, model_id, client, duration_s)))
        await asyncio.sleep(pause_s)
        for device in hub.ledger.budgets:
            assert hub.ledger.free_bytes(device) >= 0
        assert not limit or len(await hub.ready()) <= limit
    async with asyncio.timeout(10_000):  # virtual: no wait of the lifecycle is that long
        await asyncio.gather(*tasks)


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(
    actions=st.lists(ACTIONS, min_size=1, max_size=12),
    limit=st.sampled_from([0, 1, 2]),
    unload_s=st.sampled_from([0.0, 5.0]),
    restart_after=st.integers(0, 12),
)
def test_random_sequences_keep_every_promise(
    actions: list[tuple[str, str, int, float, float]], limit: int, unload_s: float, restart_after: int
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run_sequence(actions, limit, unload_s, restart_after))
