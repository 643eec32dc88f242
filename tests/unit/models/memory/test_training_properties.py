"""Random sequences of requests and trainings on a fake device: nothing is given out twice, and everybody comes back."""

import asyncio
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.models.memory.fake import FakeHost
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, Hub, running_hub, spec
from tests.unit.models.memory.test_manager_properties import act, be_quiet
from tests.unit.models.memory.training_parts import FakeTraining
from tests.unit.models.memory.virtual_time import VirtualTimeLoop

BUDGET_GIB = 10
SIZES_GIB = {"a": 6, "b": 4, "c": 3}
TRAININGS_GIB = {"one": 4.0, "two": 7.5, "three": 9.5, "large": 12.0}
MODEL_ACTIONS = ("infer", "infer", "load", "sleep", "full", "pin", "unpin", "fail", "lose", "cancel")
ACTIONS = st.one_of(
    st.tuples(
        st.sampled_from(MODEL_ACTIONS), st.sampled_from(sorted(SIZES_GIB)), st.sampled_from([0.1, 3.0, 90.0]), st.just(False)
    ),
    st.tuples(
        st.sampled_from(["train", "train", "leave", "end"]),
        st.sampled_from(sorted(TRAININGS_GIB)),
        st.sampled_from([0.1, 3.0, 90.0]),
        st.booleans(),
    ),
)
STEPS = st.lists(st.tuples(ACTIONS, st.sampled_from([0.0, 0.4, 1.3, 5.0, 80.0])), min_size=1, max_size=12)
POLICY_HERE = replace(
    POLICY, first_backoff_s=2.0, max_backoff_s=8.0, min_residency_s=5.0, sleep_margin_bytes=0, training_idle_s=20.0, poll_s=0.5
)


async def act_on_training(training: FakeTraining, action: str, duration_s: float) -> None:
    """Ask for room and run, ask and leave in the middle, or end."""
    if action == "end":
        await training.end()
        return
    try:
        await training.start(timeout_s=duration_s)
    except TimeoutError:
        return  # it waits on in the queue, or its room is found while nobody asks
    if action == "train":
        await asyncio.sleep(duration_s)
        await training.end()


async def run_steps(
    hub: Hub, steps: list[tuple[tuple[str, str, float, bool], float]], trainings: dict[str, FakeTraining]
) -> None:
    tasks = []
    for training in trainings.values():
        training.hub = hub
    for (action, name, duration_s, may_drain), pause_s in steps:
        if name in trainings:
            trainings[name].may_drain = may_drain
            tasks.append(asyncio.create_task(act_on_training(trainings[name], action, duration_s)))
        else:
            tasks.append(asyncio.create_task(act(hub, action, name, 0, duration_s)))
        await asyncio.sleep(pause_s)
        for device in hub.ledger.budgets:
            assert hub.ledger.free_bytes(device) >= 0
    async with asyncio.timeout(10_000):
        await asyncio.gather(*tasks)


async def run_sequence(steps: list[tuple[tuple[str, str, float, bool], float]], restart_after: int, device: str) -> None:
    """Run the steps, with a restart of the lifecycle in between; models and trainings run on."""
    host = FakeHost({"cpu": 64 * GIB, device: BUDGET_GIB * GIB}, start_s=6.0, give_back_s=0.0)
    budgets = {"cpu": 32.0, device: float(BUDGET_GIB)}
    specs = [spec(name, size_gib, device=device) for name, size_gib in SIZES_GIB.items()]
    async with running_hub(*specs, host=host, policy=POLICY_HERE, budgets=budgets) as hub:
        trainings = {name: FakeTraining(hub, name, size_gib, device=device) for name, size_gib in TRAININGS_GIB.items()}
        await run_steps(hub, steps[:restart_after], trainings)
        await asyncio.gather(*hub.lifecycle.training_room._tasks.values())
        await asyncio.sleep(60.3)  # models are back where nobody took their room, and it is written down
        await be_quiet(hub)
        desired = hub.desired.desired
    async with running_hub(*specs, host=host, policy=POLICY_HERE, budgets=budgets, desired=desired) as hub:
        assert dict(desired.trainings).keys() == hub.lifecycle.training_room.holders()
        await run_steps(hub, steps[restart_after:], trainings)
        for training in trainings.values():
            await training.end()
        host.failures.clear()
        await asyncio.sleep(300)
        records = hub.lifecycle._manager_state.records.values()
        assert not any(record.returns_after_training for record in records)
        assert hub.lifecycle.training_room.holders() == set()
        for one in specs:
            await hub.lifecycle.unpin(one.model_id)
        for one in specs:
            await hub.clients[0].ask(one.model_id)
    assert host.broken_promises == []
    assert host.most_used_bytes[device] <= BUDGET_GIB * GIB


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, restart_after=st.integers(0, 12), device=st.sampled_from(["cpu", "cuda:0"]))
def test_random_sequences_give_no_byte_out_twice_and_bring_everybody_back(
    steps: list[tuple[tuple[str, str, float, bool], float]], restart_after: int, device: str
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run_sequence(steps, restart_after, device))
