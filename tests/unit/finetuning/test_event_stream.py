"""Events as they come: to their end, in quiet times, and for a client that leaves."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from aihub.core.errors import StorageUnavailableError
from aihub.core.principal import Principal
from aihub.finetuning import event_stream, routes
from aihub.finetuning import jobs as job_service
from tests.unit.conftest import assert_refused
from tests.unit.documents.routes.document_hub import official_clients
from tests.unit.finetuning.jobs_hub import JobsHub


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream.follow_events, "__kwdefaults__", {"poll_s": 0.02})


def messages_of(text: str) -> list[str]:
    return [json.loads(line[6:])["message"] for line in text.splitlines() if line.startswith("data: {")]


async def test_a_stream_begins_with_the_oldest_event_and_ends_with_the_job(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    await hub.set(job_id, status="running")
    reading = asyncio.create_task(hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true"))
    await asyncio.sleep(0.1)
    await hub.told(job_id, "Bước 1 🍜")
    await asyncio.sleep(0.1)
    assert not reading.done()
    await hub.set(job_id, status="succeeded")
    await hub.told(job_id, "Xong")  # behind the state, as another process may write it
    answer = await asyncio.wait_for(reading, 5)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    messages = messages_of(answer.text)
    assert messages[0] == "The job was created and is queued."
    assert messages[-2:] == ["Bước 1 🍜", "Xong"]
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "paused", "interrupted"])
async def test_a_job_at_rest_is_told_at_once_and_goes_on_behind_what_was_seen(hub: JobsHub, status: str) -> None:
    job_id = (await hub.created())["id"]
    await hub.set(job_id, status=status)
    path = f"/v1/fine_tuning/jobs/{job_id}/events"
    first = await hub.http.get(path, headers={"accept": "text/event-stream"})
    ids = [line[4:] for line in first.text.splitlines() if line.startswith("id: ")]
    assert len(ids) >= 3
    rest = await hub.http.get(path, headers={"accept": "text/event-stream", "last-event-id": ids[-2]})
    assert [line[4:] for line in rest.text.splitlines() if line.startswith("id: ")] == ids[-1:]


async def test_more_events_than_a_page_all_come(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    for number in range(event_stream.PAGE_EVENTS + 5):
        await hub.told(job_id, str(number))
    await hub.set(job_id, status="failed")
    answer = await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")
    assert messages_of(answer.text)[-event_stream.PAGE_EVENTS :] == [str(n) for n in range(5, event_stream.PAGE_EVENTS + 5)]


async def test_an_unknown_job_or_event_is_an_error_and_no_stream(hub: JobsHub) -> None:
    assert_refused(await hub.http.get("/v1/fine_tuning/jobs/ftjob-x/events?stream=true"), 404, code="job_not_found")
    job_id = (await hub.created())["id"]
    answer = await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true&after=ftevent-x")
    assert_refused(answer, 400, param="after")


async def test_quiet_times_have_comments_and_a_client_that_leaves_ends_the_stream(
    hub: JobsHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = (await hub.created())["id"]
    ended = asyncio.Event()
    real = hub.jobs.event_stream

    async def watched(*args: Any) -> AsyncGenerator[Any, None]:
        try:
            async with aclosing(real(*args)) as events:
                async for event in events:
                    yield event
        finally:
            ended.set()

    monkeypatch.setattr(hub.jobs, "event_stream", watched)
    monkeypatch.setattr(routes, "KEEP_ALIVE_S", 0.05)
    async with official_clients(hub.app) as clients:
        url = f"{clients.asynchronous.base_url}fine_tuning/jobs/{job_id}/events?stream=true"
        async with httpx.AsyncClient() as http, http.stream("GET", url) as answer:
            async for line in answer.aiter_lines():
                if line.startswith(": still running"):
                    break
            assert not ended.is_set()
        await asyncio.wait_for(ended.wait(), 5)
    assert (await hub.jobs.get(Principal(hub.tenant), job_id)).status == "queued"


async def test_a_stream_outlives_an_outage_of_postgresql(hub: JobsHub, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = (await hub.created())["id"]
    real, calls = hub.jobs._events.following, []

    async def away_at_first(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) < 4:
            raise StorageUnavailableError("away")
        return await real(*args, **options)

    monkeypatch.setattr(hub.jobs._events, "following", away_at_first)
    await hub.set(job_id, status="cancelled")
    answer = await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")
    assert messages_of(answer.text)[0] == "The job was created and is queued."
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_so_many_clients_follow_and_one_that_leaves_makes_room(hub: JobsHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_service, "MAX_STREAMS", 1)
    job_id = (await hub.created())["id"]
    first = hub.jobs.event_stream(Principal(hub.tenant), job_id)
    await anext(first)
    answer = await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")
    assert '"code": "overloaded"' in answer.text
    await first.aclose()
    await hub.set(job_id, status="cancelled")
    answer = await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")
    assert messages_of(answer.text)[0] == "The job was created and is queued."


async def test_an_event_that_is_committed_behind_a_later_one_comes_and_none_comes_twice(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    received: list[str] = []

    async def follow() -> None:
        async for event in hub.jobs.event_stream(Principal(hub.tenant), job_id):
            received.append(event.message)

    following = asyncio.create_task(follow())
    async with hub.database.transaction() as connection:
        await connection.execute(
            "INSERT INTO finetuning_events (tenant_id, job_id, level, type, message) VALUES (%s, %s, 'info', 'message', 'slow')",
            (hub.tenant, job_id),
        )
        await hub.told(job_id, "fast")
        await asyncio.sleep(0.2)
        assert received[-1] == "fast"
    await asyncio.sleep(0.2)
    await hub.set(job_id, status="succeeded")
    await asyncio.wait_for(following, 5)
    assert received[-2:] == ["fast", "slow"]
    assert len(set(received)) == len(received)
