import asyncio

import pytest

from aihub.cache.flight import Flight, Follower
from aihub.core.errors import ModelUnavailableError, OverloadedError


async def everything(follower: Follower) -> list[str]:
    pieces = []
    while (piece := await follower.next()) is not None:
        pieces.append(piece)
    await follower.leave()
    return pieces


async def test_all_who_follow_get_every_piece_also_who_joins_late() -> None:
    go_on = asyncio.Event()

    async def make(flight: Flight) -> None:
        for number in range(5):
            await flight.push(str(number))
            if number == 2:
                await go_on.wait()
        flight.complete()

    flight = Flight(make, max_chars=100)
    early = flight.join()
    assert [await early.next() for _ in range(3)] == ["0", "1", "2"]
    late = flight.join()
    go_on.set()
    assert await everything(late) == ["0", "1", "2", "3", "4"]
    assert await everything(early) == ["3", "4"]


async def test_the_making_goes_on_while_one_follows_and_stops_with_the_last() -> None:
    stopped = asyncio.Event()

    async def make(flight: Flight) -> None:
        try:
            await flight.push("a")
            await asyncio.sleep(60)
        finally:
            stopped.set()

    flight = Flight(make, max_chars=100)
    first, second = flight.join(), flight.join()
    assert await first.next() == "a"
    await first.leave()
    assert not stopped.is_set()
    await second.leave()
    assert stopped.is_set()
    assert not flight.is_joinable


async def test_what_comes_after_the_last_piece_is_not_waited_for_and_not_cut() -> None:
    kept = asyncio.Event()

    async def make(flight: Flight) -> None:
        await flight.push("a")
        flight.complete()
        await asyncio.sleep(0.05)
        kept.set()

    flight = Flight(make, max_chars=100)
    assert await everything(flight.join()) == ["a"]
    assert not kept.is_set()
    assert await everything(flight.join()) == ["a"]
    await flight.task
    assert kept.is_set()


@pytest.mark.parametrize("error", [OverloadedError("busy"), asyncio.CancelledError()])
async def test_a_failure_reaches_all_who_follow(error: BaseException) -> None:
    async def make(flight: Flight) -> None:
        await asyncio.sleep(0)
        raise error

    flight = Flight(make, max_chars=100)
    followers = [flight.join() for _ in range(3)]
    for follower in followers:
        with pytest.raises(OverloadedError if isinstance(error, OverloadedError) else ModelUnavailableError):
            await follower.next()
        await follower.leave()
    assert not flight.is_joinable


async def test_an_answer_that_is_too_long_waits_for_the_slowest_and_holds_little() -> None:
    made = 0

    async def make(flight: Flight) -> None:
        nonlocal made
        for _ in range(100):
            await flight.push("x" * 10)
            made += 1
        flight.complete()

    flight = Flight(make, max_chars=50)
    slow, quick = flight.join(), flight.join()
    quick_pieces = asyncio.create_task(everything(quick))
    await asyncio.sleep(0.01)
    assert made < 10
    assert not flight.is_joinable
    assert await slow.next() == "x" * 10
    await slow.leave()
    assert len(await quick_pieces) == 100
    assert sum(map(len, flight.pieces)) <= 60
