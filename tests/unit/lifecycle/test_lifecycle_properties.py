"""Random sequences on a fake device: no budget is exceeded, no busy model is stopped, nothing deadlocks.

`FakeHost` raises `InternalError` when a device runs out of memory, two starts overlap on it, a model is stopped with
requests in flight or a request reaches a model that is gone; `VirtualTimeLoop` raises when nothing can ever happen.
"""

import asyncio
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.errors import ConflictError, OverloadedError, UnavailableError
from aihub.lifecycle.fake import FakeHost

from .hub_parts import GIB, POLICY, Hub, running_hub, spec
from .virtual_time import VirtualTimeLoop

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
    st.sampled_from(["infer", "infer", "infer", "load", "reload", "unload", "pin", "unpin", "fail", "lose", "cancel"]),
    st.sampled_from([one.model_id for one in SPECS]),
    st.sampled_from([0, 1]),
    st.sampled_from([0.0, 0.3, 1.1, 4.0, 15.0]),
    st.sampled_from([0.1, 2.0, 20.0]),
)


async def act(hub: Hub, action: str, model_id: str, client: int, duration_s: float) -> None:
    """One action; refusals that the API would tell a client are fine, anything else is a failure."""
    try:
        if action in {"infer", "cancel"}:
            async with asyncio.timeout(3.0 if action == "cancel" else 5000.0):
                await hub.clients[client].ask(model_id, duration_s)
        elif action == "load":
            await hub.lifecycle.load(model_id)
        elif action == "reload":
            await hub.lifecycle.load(model_id, force_reload=True)
        elif action == "unload":
            await hub.lifecycle.unload(model_id)
        elif action in {"pin", "unpin"}:
            await getattr(hub.lifecycle, action)(model_id)
        elif action == "fail":
            hub.host.failures.setdefault(model_id, []).append(ValueError("broken"))
        elif action == "lose" and not hub.host.active[model_id] and model_id in hub.host.specs:
            hub.host.lose(model_id)
    except (UnavailableError, OverloadedError, ConflictError) as error:
        assert error.message
    except TimeoutError:
        assert action == "cancel"


async def run_sequence(actions: list[tuple[str, str, int, float, float]], limit: int, unload_s: float) -> None:
    policy = replace(
        POLICY,
        first_backoff_s=2.0,
        max_backoff_s=8.0,
        room_timeout_s=60.0,
        min_residency_s=8.0,
        max_waiting_requests=4,
        max_concurrent_models=limit,
        unload_timeout_s=unload_s,
        poll_s=0.5,
    )
    host = FakeHost({"cpu": BUDGET_GIB * GIB, "cuda:0": BUDGET_GIB * GIB}, start_s=6.0)
    async with running_hub(*SPECS, budget_gib=BUDGET_GIB, host=host, policy=policy, clients=2) as hub:
        tasks = []
        for action, model_id, client, pause_s, duration_s in actions:
            tasks.append(asyncio.create_task(act(hub, action, model_id, client, duration_s)))
            await asyncio.sleep(pause_s)
            for device in hub.ledger.budgets:
                assert hub.ledger.free_bytes(device) >= 0
            assert not limit or len(await hub.ready()) <= limit
        async with asyncio.timeout(10_000):  # virtual: no wait of the lifecycle is that long
            await asyncio.gather(*tasks)
        for one in SPECS:
            await hub.lifecycle.unpin(one.model_id)
            hub.host.failures.clear()
        await asyncio.sleep(10)  # all pauses after failures are over
        await hub.clients[0].ask("c")  # and it still works
        assert max(host.most_used_bytes.values()) <= BUDGET_GIB * GIB


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(ACTIONS, min_size=1, max_size=10), limit=st.sampled_from([0, 1, 2]), unload_s=st.sampled_from([0.0, 5.0]))
def test_random_sequences_keep_every_promise(
    actions: list[tuple[str, str, int, float, float]], limit: int, unload_s: float
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run_sequence(actions, limit, unload_s))
