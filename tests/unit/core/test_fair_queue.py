import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.core.fair_queue import FairQueue, QueueFullError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def answer(queue: FairQueue, key: str, service_s: float, waits: list[float]) -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with queue.turn(key):
        waits.append(loop.time() - started_s)
        await asyncio.sleep(service_s)


async def test_free_places_are_taken_without_waiting_and_given_back() -> None:
    queue = FairQueue(2, 0)
    async with queue.turn("a"), queue.turn("a"):
        assert queue.taken == 2
    assert (queue.taken, queue.waiting) == (0, 0)


async def test_a_key_that_floods_does_not_hold_up_another() -> None:
    """One key sends 500 requests at once; what another sends in the middle waits for one of 8 places, not for the 500."""
    queue, service_s = FairQueue(8, 1000), 0.02
    flood_waits: list[float] = []
    flood = [asyncio.create_task(answer(queue, "flood", service_s, flood_waits)) for _ in range(500)]
    await asyncio.sleep(2.5 * service_s)
    waits: list[float] = []
    for _ in range(20):
        await answer(queue, "other", service_s, waits)
    assert sum(not task.done() for task in flood) > 100  # the flood was still there
    await asyncio.gather(*flood)
    assert sorted(waits)[18] < 2 * service_s  # p95 of 20; a service time, and what the loop takes
    assert max(flood_waits) > 30 * service_s
    assert (queue.taken, queue.waiting) == (0, 0)


async def test_slow_requests_get_no_more_places_than_quick_ones() -> None:
    """Turn by turn alone, the key with slow requests would end up in nearly all places."""
    queue = FairQueue(4, 1000)
    answered = {"slow": 0, "quick": 0}

    async def ask(key: str, service_s: float) -> None:
        async with queue.turn(key):
            await asyncio.sleep(service_s)
            answered[key] += 1

    tasks = [asyncio.create_task(ask("slow", 0.1)) for _ in range(20)]
    tasks += [asyncio.create_task(ask("quick", 0.005)) for _ in range(60)]
    await asyncio.sleep(0.35)
    assert answered["quick"] == 60
    assert 0 < answered["slow"] < 14
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (queue.taken, queue.waiting) == (0, 0)


async def test_order_within_a_key_is_that_of_arrival_and_keys_take_turns() -> None:
    queue = FairQueue(1, 100)
    order: list[str] = []

    async def ask(name: str) -> None:
        async with queue.turn(name[0]):
            order.append(name)
            await asyncio.sleep(0)

    async with queue.turn("x"):
        tasks = []
        for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
            tasks.append(asyncio.create_task(ask(name)))
            await settle()
    await asyncio.gather(*tasks)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_a_full_queue_of_one_key_is_refused_while_another_key_finds_room() -> None:
    queue = FairQueue(1, 4)
    async with queue.turn("flood"):
        tasks = [asyncio.create_task(queue.enter("flood")) for _ in range(4)]
        await settle()
        with pytest.raises(QueueFullError) as refused:
            await queue.enter("flood")
        assert refused.value.status == 429
        assert refused.value.retry_after_s == 1
        other = asyncio.create_task(queue.enter("other"))
        await settle()
        assert queue.waiting == 5
    await tasks[0]  # it came first, and nobody holds more than another
    queue.leave("flood")
    await asyncio.wait_for(other, 1)
    queue.leave("other")
    await tasks[1]
    for task in tasks[2:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    queue.leave("flood")
    assert (queue.taken, queue.waiting) == (0, 0)


async def test_many_keys_together_are_bounded() -> None:
    queue = FairQueue(1, 32)
    await queue.enter("x")
    tasks: list[asyncio.Task[None]] = []
    for key in range(20):
        for _ in range(32):
            tasks.append(asyncio.create_task(queue.enter(str(key))))
        await settle()
    assert 32 <= queue.waiting < 32 * 4  # 1 + ln 20 is below 4
    refused = [task for task in tasks if task.done()]
    assert all(isinstance(task.exception(), QueueFullError) for task in refused)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert queue.waiting == 0


async def test_retry_after_follows_how_fast_places_become_free(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now_s = asyncio.get_running_loop(), 1000.0
    monkeypatch.setattr(loop, "time", lambda: now_s)
    queue = FairQueue(1, 1)
    await queue.enter("a")
    for _ in range(40):
        waiting = asyncio.create_task(queue.enter("a"))
        await settle()
        now_s += 7.0
        queue.leave("a")
        await waiting
    waiting = asyncio.create_task(queue.enter("a"))
    await settle()
    with pytest.raises(QueueFullError) as refused:
        await queue.enter("a")
    assert refused.value.retry_after_s == 7
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_one_cancelled_just_as_its_turn_comes_loses_no_place() -> None:
    queue = FairQueue(1, 10)
    await queue.enter("a")
    waiting = asyncio.create_task(queue.enter("b"))
    await settle()
    queue.leave("a")  # b has the place, and does not know yet
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert (queue.taken, queue.waiting) == (0, 0)


async def test_a_place_freed_in_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    queue = FairQueue(1, 10)
    await queue.enter("a")
    cancelled, following = asyncio.create_task(queue.enter("b")), asyncio.create_task(queue.enter("b"))
    await settle()
    cancelled.cancel()
    queue.leave("a")  # before the cancelled one has run
    await following
    assert (await asyncio.gather(cancelled, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    assert (queue.taken, queue.waiting) == (1, 0)
    queue.leave("b")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 12))
def test_whatever_is_cancelled_no_place_is_lost_and_never_too_many_are_inside(seed: int, places: int, most_waiting: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # which requests are cancelled

    async def scenario() -> None:
        queue = FairQueue(places, most_waiting)
        inside = 0

        async def ask() -> None:
            nonlocal inside
            async with queue.turn(chance.choice("abc")):
                inside += 1
                assert inside <= places
                try:
                    for _ in range(chance.randrange(3)):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks: list[asyncio.Task[None]] = []
        for _ in range(60):
            tasks.append(asyncio.create_task(ask()))
            if chance.random() < 0.4:
                chance.choice(tasks).cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, QueueFullError | asyncio.CancelledError) for result in results)
        assert (queue.taken, queue.waiting, inside) == (0, 0, 0)

    asyncio.run(scenario())
