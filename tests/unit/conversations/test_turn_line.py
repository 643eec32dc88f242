import asyncio

import pytest

from aihub.conversations.turn_line import TurnLine
from aihub.core.errors import RateLimitError
from aihub.core.principal import Principal

LAN, MINH = Principal("t", user_id="lan"), Principal("t", user_id="minh")


async def test_requests_come_in_the_order_of_their_arrival() -> None:
    line, order = TurnLine(), []

    async def take(number: int) -> None:
        await line.enter(LAN, "conv_1")
        order.append(number)
        await asyncio.sleep(0)
        line.leave(LAN, "conv_1")

    await asyncio.gather(*(take(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]


async def test_one_more_than_may_wait_is_refused_and_others_conversations_are_free() -> None:
    line = TurnLine(max_waiting=1)
    await line.enter(LAN, "conv_1")
    waiting = asyncio.create_task(line.enter(LAN, "conv_1"))
    await asyncio.sleep(0)
    with pytest.raises(RateLimitError) as caught:
        await line.enter(LAN, "conv_1")
    assert (caught.value.code, caught.value.retry_after_s) == ("conversation_busy", 5)
    await line.enter(LAN, "conv_2")
    await line.enter(MINH, "conv_1")
    line.leave(LAN, "conv_1")
    await waiting


async def test_who_stops_waiting_holds_nobody_up_and_leaves_nothing_behind() -> None:
    line = TurnLine()
    await line.enter(LAN, "conv_1")
    waiting = asyncio.create_task(line.enter(LAN, "conv_1"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    line.leave(LAN, "conv_1")
    async with asyncio.timeout(1):
        await line.enter(LAN, "conv_1")
    line.leave(LAN, "conv_1")
    assert not line._locks
    assert not line._present
