import asyncio
import time
from collections.abc import Iterator

import pytest

from aihub.core.request_record import RequestRecord, current_record, get_record, queueing, waiting


@pytest.fixture
def record() -> Iterator[RequestRecord]:
    made = RequestRecord()
    token = current_record.set(made)
    yield made
    current_record.reset(token)


async def test_waits_at_the_same_time_count_once(record: RequestRecord) -> None:
    async def ask(seconds: float) -> None:
        with waiting():
            await asyncio.sleep(seconds)

    began_s = time.perf_counter()
    await asyncio.gather(ask(0.05), ask(0.1), ask(0.1))
    assert 0.1 <= record.waited_s <= time.perf_counter() - began_s


async def test_wait_inside_a_queue_counts_as_queued_and_after_it_as_waited(record: RequestRecord) -> None:
    began_s = time.perf_counter()
    with queueing(), waiting():
        await asyncio.sleep(0.05)
    with waiting():
        await asyncio.sleep(0.1)
    assert record.queued_s >= 0.05
    assert record.waited_s >= 0.1
    assert record.queued_s + record.waited_s <= time.perf_counter() - began_s


async def test_queued_waited_and_overhead_add_up_to_the_time_that_has_passed(record: RequestRecord) -> None:
    async def part(seconds: float) -> None:
        with waiting():
            await asyncio.sleep(seconds)

    async def queue() -> None:
        await asyncio.sleep(0.02)
        with queueing():
            await asyncio.sleep(0.04)

    await asyncio.gather(part(0.08), part(0.03), queue())
    await asyncio.sleep(0.03)
    overhead_s = record.overhead_s
    passed_s = time.perf_counter() - record.started_s
    assert record.queued_s + record.waited_s + overhead_s == pytest.approx(passed_s, abs=0.002)
    assert overhead_s >= 0.029


async def test_overhead_of_a_wait_that_goes_on_leaves_out_its_time_up_to_now(record: RequestRecord) -> None:
    with waiting():
        await asyncio.sleep(0.05)
        overhead_s = record.overhead_s
        assert overhead_s <= time.perf_counter() - record.started_s - 0.05
        assert record.waited_s >= 0.05


async def test_wait_that_is_cancelled_ends(record: RequestRecord) -> None:
    async def ask() -> None:
        with waiting():
            await asyncio.sleep(10)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    waited_s = record.waited_s
    await asyncio.sleep(0.03)
    record.settle()
    assert record.waited_s == waited_s


async def test_requests_side_by_side_each_have_their_own_record() -> None:
    async def request(seconds: float) -> RequestRecord:
        made = RequestRecord()
        current_record.set(made)
        with waiting():
            await asyncio.sleep(seconds)
        get_record().note_model(f"mô-hình-{seconds}")
        return made

    first, second = await asyncio.gather(asyncio.create_task(request(0.02)), asyncio.create_task(request(0.06)))
    assert (first.model, second.model) == ("mô-hình-0.02", "mô-hình-0.06")
    assert first.waited_s < 0.05 < second.waited_s


def test_outside_a_request_nothing_is_kept() -> None:
    get_record().note_model("nobody")
    with waiting():
        pass
    assert get_record().model == ""


def test_told_usage_replaces_counted_pieces_and_ends_the_counting() -> None:
    record = RequestRecord()
    record.note_streamed(3)
    record.note_streamed(4)
    assert (record.prompt_tokens, record.completion_tokens) == (0, 7)
    record.note_usage({"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21})
    record.note_streamed(5)
    assert (record.prompt_tokens, record.completion_tokens) == (12, 9)
