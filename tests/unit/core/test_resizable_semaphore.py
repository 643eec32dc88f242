import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.core.concurrency import ResizableSemaphore


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Visitors:
    """Tasks that go in, stay until told, and leave."""

    def __init__(self, limit: int) -> None:
        self.slots = ResizableSemaphore(limit)
        self.inside: list[int] = []
        self.most = 0
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.doors: dict[int, asyncio.Event] = {}

    def come(self, name: int) -> None:
        self.doors[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._visit(name))

    async def _visit(self, name: int) -> None:
        async with self.slots:
            self.inside.append(name)
            self.most = max(self.most, len(self.inside))
            try:
                await self.doors[name].wait()
            finally:
                self.inside.remove(name)


async def test_others_wait_in_the_order_they_came() -> None:
    visitors = Visitors(2)
    for name in range(4):
        visitors.come(name)
    await settle()
    assert visitors.inside == [0, 1]
    visitors.doors[1].set()
    await settle()
    assert visitors.inside == [0, 2]


async def test_a_higher_limit_lets_waiting_ones_in_at_once() -> None:
    visitors = Visitors(1)
    for name in range(3):
        visitors.come(name)
    await settle()
    visitors.slots.resize(3)
    await settle()
    assert visitors.inside == [0, 1, 2]


async def test_one_that_gives_up_waiting_takes_no_place() -> None:
    visitors = Visitors(1)
    for name in range(3):
        visitors.come(name)
    await settle()
    visitors.tasks[1].cancel()
    visitors.doors[0].set()
    await settle()
    assert visitors.inside == [2]


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(["come", "leave", "cancel"]), st.integers(0, 9)), max_size=40))
def test_never_too_many_and_nobody_is_forgotten(limit: int, steps: list[tuple[str, int]]) -> None:
    async def play() -> None:
        visitors = Visitors(limit)
        for action, name in steps:
            if action == "come" and name not in visitors.tasks:
                visitors.come(name)
            elif action == "leave" and name in visitors.inside:
                visitors.doors[name].set()
            elif action == "cancel" and name in visitors.tasks:
                visitors.tasks[name].cancel()
            if len(name_list := visitors.inside) % 2:
                await settle()
            assert len(name_list) <= limit
        for door in visitors.doors.values():
            door.set()
        async with asyncio.timeout(5):
            await asyncio.gather(*visitors.tasks.values(), return_exceptions=True)
        assert visitors.most <= limit
        assert visitors.inside == []

    asyncio.run(play())


async def test_waiter_that_is_cancelled_as_its_turn_comes_ends_as_cancelled() -> None:
    semaphore = ResizableSemaphore(1)
    await semaphore.__aenter__()
    waiting = asyncio.create_task(semaphore.__aenter__())
    await asyncio.sleep(0)
    waiting.cancel()
    await semaphore.__aexit__(None, None, None)  # comes by before the waiter has heard of its end
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await semaphore.__aenter__()
