import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from aihub.core.errors import InternalError, ModelUnavailableError, OverloadedError
from aihub.embeddings import queue as encoding_queue
from aihub.embeddings.queue import EncodingQueue

Ids = NDArray[np.int64]
POISON = 666


class ToyEncoder:
    """A vector is (sum of the ids, number of tokens); remembers the shape of each call."""

    def __init__(self, *, parallel_calls: int = 1, delay_s: float = 0.0) -> None:
        self.parallel_calls = parallel_calls
        self.delay_s = delay_s
        self.shapes: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, token_ids: Ids, mask: Ids) -> NDArray[np.float32]:
        self.gate.wait(10)
        time.sleep(self.delay_s)
        self.shapes.append(token_ids.shape)
        if (token_ids == POISON).any():
            raise RuntimeError("out of memory")
        return np.stack([(token_ids * mask).sum(axis=1), mask.sum(axis=1)], axis=1).astype(np.float32)


@asynccontextmanager
async def running(encoder: ToyEncoder, max_batch_tokens: int = 64) -> AsyncIterator[EncodingQueue]:
    queue = EncodingQueue(encoder, dimensions=2, max_batch_tokens=max_batch_tokens)
    try:
        yield queue
    finally:
        encoder.gate.set()
        await asyncio.to_thread(queue.close)


def rows(*lengths: int, token: int = 1) -> list[Ids]:
    return [np.full(length, token, np.int64) for length in lengths]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


@pytest.mark.parametrize("parallel_calls", [1, 3])
async def test_every_caller_gets_its_vectors_in_order(parallel_calls: int) -> None:
    async with running(ToyEncoder(parallel_calls=parallel_calls)) as queue:
        lengths = [[5, 1, 30, 5], [64, 2], [200], [7] * 50]
        answers = await asyncio.gather(*(queue.encode(rows(*each, token=number)) for number, each in enumerate(lengths)))
    for number, (each, vectors) in enumerate(zip(lengths, answers, strict=True)):
        assert vectors.tolist() == [[length * number, length] for length in each]


async def test_waiting_requests_travel_in_one_batch() -> None:
    encoder = ToyEncoder()
    async with running(encoder) as queue:
        encoder.gate.clear()
        first = asyncio.create_task(queue.encode(rows(8)))
        await until(lambda: bool(queue._began_s))
        others = [asyncio.create_task(queue.encode(rows(8))) for _ in range(7)]
        await asyncio.sleep(0)
        encoder.gate.set()
        await asyncio.gather(first, *others)
    assert encoder.shapes == [(1, 8), (7, 8)]


async def test_no_batch_is_larger_than_its_limit_and_little_is_padding() -> None:
    encoder = ToyEncoder()
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 60, 4, 4, 4, 30, 31, 33]
    async with running(encoder) as queue:
        await queue.encode(rows(*lengths))
    padded = [texts * longest for texts, longest in encoder.shapes]
    assert max(padded) <= 64
    assert sum(padded) <= 1.5 * sum(lengths)


async def test_a_text_over_the_batch_limit_goes_alone() -> None:
    encoder = ToyEncoder()
    async with running(encoder) as queue:
        await queue.encode(rows(100, 100))
    assert encoder.shapes == [(1, 100), (1, 100)]


async def test_a_small_request_does_not_wait_for_a_huge_one() -> None:
    encoder = ToyEncoder(delay_s=0.005)
    async with running(encoder) as queue:
        huge = asyncio.create_task(queue.encode(rows(*[60] * 300)))
        await until(lambda: len(encoder.shapes) > 2)
        began = len(encoder.shapes)
        await queue.encode(rows(3))
        assert len(encoder.shapes) - began <= 4
        assert not huge.done()
        huge.cancel()


async def test_a_huge_request_goes_on_under_a_stream_of_small_ones() -> None:
    encoder = ToyEncoder(delay_s=0.001)
    async with running(encoder) as queue:

        async def chatter() -> None:
            while True:
                await queue.encode(rows(4))

        small = [asyncio.create_task(chatter()) for _ in range(8)]
        async with asyncio.timeout(5):
            await queue.encode(rows(*[60] * 40))
        for task in small:
            task.cancel()


async def test_a_request_that_breaks_the_model_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    encoder = ToyEncoder()
    async with running(encoder) as queue:
        encoder.gate.clear()
        first = asyncio.create_task(queue.encode(rows(8)))
        await until(lambda: bool(queue._began_s))
        good, bad = asyncio.create_task(queue.encode(rows(8))), asyncio.create_task(queue.encode(rows(8, token=POISON)))
        await asyncio.sleep(0)
        encoder.gate.set()
        assert (await first).tolist() == [[8, 8]]
        assert (await good).tolist() == [[8, 8]]
        with pytest.raises(InternalError) as raised:
            await bad
        assert "out of memory" not in raised.value.message
        assert "out of memory" in caplog.text
        assert (await queue.encode(rows(2))).tolist() == [[2, 2]]


async def test_a_vector_that_is_not_finite_is_an_error_not_an_answer() -> None:
    encoder = ToyEncoder()
    async with running(encoder) as queue:
        encoder.__class__ = type("NaN", (ToyEncoder,), {"__call__": lambda self, ids, mask: np.full((len(ids), 2), np.nan)})
        with pytest.raises(InternalError):
            await queue.encode(rows(3))


async def test_what_a_caller_who_left_still_wanted_is_not_computed() -> None:
    encoder = ToyEncoder(delay_s=0.01)
    async with running(encoder) as queue:
        leaving = asyncio.create_task(queue.encode(rows(*[60] * 500)))
        await until(lambda: bool(encoder.shapes))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await queue.encode(rows(60))
        assert len(encoder.shapes) < 10
        assert queue._waiting_tokens == 0


async def test_too_much_work_is_refused_at_once_but_never_a_lone_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_queue, "MAX_WAITING_TOKENS", 100)
    encoder = ToyEncoder()
    async with running(encoder) as queue:
        encoder.gate.clear()
        lone = asyncio.create_task(queue.encode(rows(*[50] * 4)))
        await until(lambda: bool(queue._began_s))
        with pytest.raises(OverloadedError) as raised:
            await queue.encode(rows(10))
        assert raised.value.retry_after_s
        encoder.gate.set()
        assert len(await lone) == 4
        assert len(await queue.encode(rows(10))) == 1


async def test_closing_fails_what_waits_and_refuses_what_comes() -> None:
    encoder = ToyEncoder(delay_s=0.05)
    async with running(encoder) as queue:
        waiting = asyncio.create_task(queue.encode(rows(*[60] * 50)))
        await until(lambda: bool(queue._began_s))
        await asyncio.to_thread(queue.close)
        with pytest.raises(ModelUnavailableError):
            await waiting
        with pytest.raises(ModelUnavailableError):
            await queue.encode(rows(1))
        assert queue.problem() == "the model is stopping"


async def test_a_batch_that_never_ends_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_queue, "STUCK_AFTER_S", 0.5)
    encoder = ToyEncoder()
    async with running(encoder) as queue:
        assert queue.problem() is None
        encoder.gate.clear()
        task = asyncio.create_task(queue.encode(rows(3)))
        await until(lambda: queue.problem() is not None)
        encoder.gate.set()
        await task
        await until(lambda: queue.problem() is None)  # the thread ends its batch after it has given the answer
