"""First parts of files do not wait for the further parts of others."""

import asyncio

import pytest

from aihub.speech import places as places_module
from aihub.speech.places import Places


async def take(places: Places, order: list[str], name: str, *, is_first: bool) -> None:
    await places.acquire(is_first=is_first)
    order.append(name)


async def test_first_part_has_a_place_when_all_are_taken_and_goes_before_further_parts() -> None:
    places, order = Places(1), []
    await take(places, order, "long", is_first=False)
    further = asyncio.create_task(take(places, order, "further", is_first=False))
    await asyncio.sleep(0)
    await asyncio.wait_for(take(places, order, "short", is_first=True), 1.0)
    second = asyncio.create_task(take(places, order, "second short", is_first=True))
    await asyncio.sleep(0)
    assert order == ["long", "short"]
    places.release(is_first=False)
    await second
    places.release(is_first=True)
    await further
    assert order == ["long", "short", "second short", "further"]


async def test_further_part_that_has_waited_for_long_is_not_overtaken_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places_module, "_HEAD_START_S", 0.02)
    places, order = Places(1), []
    await take(places, order, "one", is_first=True)
    await take(places, order, "two", is_first=True)
    further = asyncio.create_task(take(places, order, "further", is_first=False))
    await asyncio.sleep(0.05)
    short = asyncio.create_task(take(places, order, "short", is_first=True))
    await asyncio.sleep(0)
    places.release(is_first=True)
    await further
    places.release(is_first=True)
    await short
    assert order == ["one", "two", "further", "short"]


async def test_cancelled_callers_hold_no_place() -> None:
    places, order = Places(1), []
    async with places, places:
        tasks = [asyncio.create_task(take(places, order, "gone", is_first=number % 2 == 0)) for number in range(6)]
        await asyncio.sleep(0)
        for task in tasks[:3]:
            task.cancel()
        await asyncio.sleep(0)
    for task in tasks[3:]:
        task.cancel()  # some have been let in and do not know it yet
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == []
    await asyncio.wait_for(take(places, order, "next", is_first=False), 1.0)
